"""Measures how much an exporter counts: in memory, with its journal, and over its socket.

A token counts like an event: the tokens of a request and flush are one event, but each is a count
and an observation. Rates are per second of CPU time, which other load distorts less than the clock,
unless they say otherwise.
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import trio

from exporter.ingest.batches import Accepted, Ingest, decode_batch
from exporter.journal.opening import open_store
from exporter.journal.store import Store
from exporter.metrics.state import State
from exporter.settings import ExporterSettings
from shared.events import Event, TokensGenerated
from tests.bench.load import mixed_events, pack, send, tokens_event
from tests.bench.processes import run_exporter
from tests.bench.table import Row

_TOKENS: Final = 20
_BATCH_EVENTS: Final = 500
_BATCHES: Final = 400
_ROUNDS: Final = 5
_AIM: Final = ">= 500,000 in memory"


class Rate(NamedTuple):
    """Events and tokens per second of CPU time, and per second by the clock."""

    cpu: float
    clock: float


def measure() -> list[Row]:
    """Count the events of a real node, then tokens only."""
    return [
        *_compare("events as a node emits them", mixed_events()),
        *_compare("TokensGenerated alone", [tokens_event(random.Random(1), tokens=_TOKENS)]),
    ]


def _compare(what: str, events: Sequence[Event]) -> Iterator[Row]:
    batches = list(pack(events, _BATCH_EVENTS, _BATCHES))
    weight = sum(map(_weigh, events)) / len(events)
    decoded, counted, kept = _time_rounds(batches, _decode, _count, _keep)
    carried = _carry(batches)
    for what_else, ours, theirs, aim in (
        (f"{what}: in memory, against decoding alone", counted.cpu, decoded.cpu, _AIM),
        ("  ... with the journal, against in memory", kept.cpu, counted.cpu, ""),
        ("  ... through the socket, against in memory", carried.cpu, counted.cpu, ""),
        ("  ... through the socket, against decoding alone", carried.cpu, decoded.cpu, ">= 0.1"),
        (
            "  ... by the clock: through the socket, against in memory",
            carried.clock,
            counted.clock,
            "",
        ),
    ):
        yield _row(what_else, weight * ours, weight * theirs, aim)


def _weigh(event: Event) -> int:
    return event.count if isinstance(event, TokensGenerated) else 1


def _row(what: str, ours: float, theirs: float, aim: str) -> Row:
    return Row(what, f"{ours:,.0f}/s", f"{theirs:,.0f}/s", f"{ours / theirs:.2f}", aim)


def _time_rounds(
    batches: Sequence[bytes], *variants: Callable[[Sequence[bytes]], None]
) -> list[Rate]:
    """Return the best rate of each variant, because other load only slows it."""
    rounds = [[_time(variant, batches) for variant in variants] for _ in range(_ROUNDS)]
    return [
        Rate(max(rate.cpu for rate in column), max(rate.clock for rate in column))
        for column in zip(*rounds, strict=True)
    ]


def _time(variant: Callable[[Sequence[bytes]], None], batches: Sequence[bytes]) -> Rate:
    cpu_began, began = time.process_time(), time.perf_counter()
    variant(batches)
    cpu_seconds, seconds = time.process_time() - cpu_began, time.perf_counter() - began
    return _rate(batches, cpu_seconds, seconds)


def _rate(batches: Sequence[bytes], cpu_seconds: float, seconds: float) -> Rate:
    count = len(batches) * _BATCH_EVENTS
    return Rate(count / cpu_seconds, count / seconds)


def _decode(batches: Sequence[bytes]) -> None:
    for message in batches:
        assert isinstance(decode_batch(message), Accepted)


def _count(batches: Sequence[bytes]) -> None:
    ingest = Ingest(State(), ExporterSettings.node_timeout_seconds)
    for message in batches:
        accepted = decode_batch(message)
        assert isinstance(accepted, Accepted)
        ingest.count(accepted, 0.0, 0.0)


def _keep(batches: Sequence[bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        store = open_store(Path(name), State, ExporterSettings.node_timeout_seconds)
        trio.run(_take_all, store, batches)
        store.close()


async def _take_all(store: Store, batches: Sequence[bytes]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.watch_nodes, name="node silence")
        nursery.start_soon(store.keep_journal, name="journal upkeep")
        for message in batches:
            reply = await store.take(message, 0, set)
            assert reply.durable
        nursery.cancel_scope.cancel()


def _carry(batches: Sequence[bytes]) -> Rate:
    """Send to an exporter in its own process, and count the CPU time of that process only."""
    with tempfile.TemporaryDirectory() as name, run_exporter(Path(name)) as exporter:
        cpu_before, began = exporter.cpu_seconds(), time.perf_counter()
        send(Path(name), batches)
        seconds = time.perf_counter() - began
        return _rate(batches, exporter.cpu_seconds() - cpu_before, seconds)
