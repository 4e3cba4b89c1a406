"""Measures what a streamed token costs the node, from the engine's results to the connection.

The engine is a stand-in that emits tokens at a given rate, so only the node's own work is measured.
Clients read in a process of their own, and an exporter receives the events.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tests.bench.processes import Service, run_emitting_node, run_exporter, run_module
from tests.bench.table import Row

_STREAMS: Final = 8
_ROUNDS: Final = 3
_RATES: Final = ((400, 500), (1600, 1600))
"""Tokens per second of all streams together, and tokens of each stream."""
_AT_WILL: Final = (1_000_000, 3000)
_WARM_UP_TOKENS: Final = 20
_CLIENT_SECONDS: Final = 120.0
_IDLE_SECONDS: Final = 10.0


class Streamed(NamedTuple):
    """What the streams of one round cost."""

    milliseconds: float
    """CPU time of the node per token."""
    tokens_per_second: float
    tokens_per_read: float


def measure() -> list[Row]:
    """Stream at two rates that engines reach, then as fast as the node can; then not at all."""
    return [*_measure_rates(), *_measure_at_will(), _measure_idle()]


def _measure_rates() -> Iterator[Row]:
    for rate, tokens in _RATES:
        best = min(_stream(rate, tokens))
        what = f"{_STREAMS} streams at {rate / _STREAMS:g} tokens/s each: CPU of the node"
        measured = f"{best.milliseconds:.3f} ms/token"
        yield Row(what, measured, f"{best.tokens_per_read:.1f} tokens/read", "", "<= 0.15")


def _measure_at_will() -> Iterator[Row]:
    rounds = _stream(*_AT_WILL)
    fastest = max(each.tokens_per_second for each in rounds)
    cpu = min(each.milliseconds for each in rounds)
    what = f"{_STREAMS} streams of an engine that emits at will"
    yield Row(what, f"{fastest:,.0f} tokens/s", f"{cpu:.3f} ms/token", "", ">= 10,000")


def _measure_idle() -> Row:
    """Measure what the node does without requests, a part of each token's cost above."""
    rate, _ = _RATES[0]
    with (
        tempfile.TemporaryDirectory() as name,
        run_exporter(Path(name)),
        run_emitting_node(Path(name), rate) as node,
    ):
        _read(node, _WARM_UP_TOKENS)
        before = node.cpu_seconds()
        time.sleep(_IDLE_SECONDS)
        milliseconds = 1e3 * (node.cpu_seconds() - before) / _IDLE_SECONDS
    share = f"{milliseconds / rate:.3f} ms/token at {rate / _STREAMS:g} tokens/s each"
    return Row("the same node without requests", f"{milliseconds:.1f} ms/s", share, "", "")


def _stream(rate: float, tokens: int) -> list[Streamed]:
    with (
        tempfile.TemporaryDirectory() as name,
        run_exporter(Path(name)),
        run_emitting_node(Path(name), rate) as node,
    ):
        _read(node, _WARM_UP_TOKENS)
        return [_read(node, tokens) for _ in range(_ROUNDS)]


def _read(node: Service, tokens: int) -> Streamed:
    before = node.cpu_seconds()
    arguments = (node.host, str(node.port), str(_STREAMS), str(tokens))
    with run_module("tests.bench.streaming_clients", *arguments) as clients:
        written, _ = clients.communicate(timeout=_CLIENT_SECONDS)
    found = json.loads(written)
    return Streamed(
        1e3 * (node.cpu_seconds() - before) / found["tokens"],
        found["tokens"] / found["seconds"],
        found["tokens"] / found["reads"],
    )
