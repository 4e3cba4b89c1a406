"""Measures what a streamed token costs the node, from the engine's process to the connection.

The engine is llama.cpp with a tiny model, or emits tokens at a given rate and takes no time.
Clients read in a process of their own, and an exporter receives the events.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.bench.processes import (
    Service,
    run_emitting_node,
    run_exporter,
    run_module,
    run_node,
)
from tests.bench.table import Row
from tests.random_models import random_model

_STREAMS: Final = 8
_ROUNDS: Final = 3
_RATES: Final = ((400, 500), (1600, 1600))
"""Tokens per second of all streams together, and tokens of each stream."""
_AT_WILL: Final = (1_000_000, 3000)
_LLAMA_TOKENS: Final = 1000
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
    """Stream from llama.cpp, at two rates, as fast as the node can; then not at all."""
    return [_measure_llama(), *_measure_rates(), *_measure_at_will(), _measure_idle()]


def _measure_llama() -> Row:
    flags = ["--engine=llama.cpp", f"--slots={_STREAMS}", f"--context-length={2 * _LLAMA_TOKENS}"]
    with (
        tempfile.TemporaryDirectory() as name,
        run_exporter(Path(name)),
        run_node(Path(name), random_model("qwen2"), 1, flags) as node,
    ):
        _read(node, _WARM_UP_TOKENS)
        rounds = [_read(node, _LLAMA_TOKENS) for _ in range(_ROUNDS)]
    rate = statistics.median(each.tokens_per_second for each in rounds) / _STREAMS
    what = f"{_STREAMS} streams of llama.cpp at {rate:.0f} tokens/s each: CPU of the node"
    return _row(what, rounds)


def _measure_rates() -> Iterator[Row]:
    for rate, tokens in _RATES:
        what = f"{_STREAMS} streams at {rate / _STREAMS:g} tokens/s each: CPU of the node"
        yield _row(what, _stream(rate, tokens))


def _row(what: str, rounds: list[Streamed]) -> Row:
    best = min(rounds)
    measured = f"{best.milliseconds:.3f} ms/token"
    return Row(what, measured, f"{best.tokens_per_read:.1f} tokens/read", "", "<= 0.15")


def _measure_at_will() -> Iterator[Row]:
    rounds = _stream(*_AT_WILL)
    fastest = max(each.tokens_per_second for each in rounds)
    cpu = min(each.milliseconds for each in rounds)
    what = f"{_STREAMS} streams of an engine that emits at will"
    yield Row(what, f"{fastest:,.0f} tokens/s", f"{cpu:.3f} ms/token", "", ">= 10,000")


def _measure_idle() -> Row:
    """Measure what the node does without requests, a part of each token's cost above."""
    rate, _ = _RATES[0]
    with _run_pair(rate) as node:
        before = node.cpu_seconds()
        time.sleep(_IDLE_SECONDS)
        milliseconds = 1e3 * (node.cpu_seconds() - before) / _IDLE_SECONDS
    share = f"{milliseconds / rate:.3f} ms/token at {rate / _STREAMS:g} tokens/s each"
    return Row("the same node without requests", f"{milliseconds:.1f} ms/s", share, "", "")


@contextmanager
def _run_pair(rate: float) -> Iterator[Service]:
    """Run an exporter and a node that has answered once."""
    with (
        tempfile.TemporaryDirectory() as name,
        run_exporter(Path(name)),
        run_emitting_node(Path(name), rate) as node,
    ):
        _read(node, _WARM_UP_TOKENS)
        yield node


def _stream(rate: float, tokens: int) -> list[Streamed]:
    with _run_pair(rate) as node:
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
