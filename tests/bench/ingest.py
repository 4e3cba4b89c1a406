"""Measures how much an exporter counts: in memory, with its journal, and over its socket.

A token counts like an event: the tokens of a request and flush are one event, but each is a count
and an observation. Rates are per second of CPU time, which other load distorts less than the clock,
unless they say otherwise.
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import trio

from exporter.ingest.batches import Accepted, Ingest, decode_batch
from exporter.journal.opening import open_store
from exporter.journal.store import Store
from exporter.metrics.state import State
from exporter.settings import ExporterSettings
from shared.events.event import Event
from shared.events.requests import TokensGenerated
from tests.bench.load import mixed_events, pack, pack_backlog, send, tokens_event
from tests.bench.processes import run_exporter
from tests.bench.table import Row

_TOKENS: Final = 20
_BATCH_EVENTS: Final = 500
_BATCHES: Final = 400
_BACKLOG_EVENTS: Final = 100_000
_ROUNDS: Final = 5
_CARRIED: Final = 3
"""Rounds through the socket, each with an exporter of its own."""
_AIM: Final = ">= 500,000 in memory"


class Seconds(NamedTuple):
    """The CPU time and the time by the clock that some batches took."""

    cpu: float
    clock: float


class Rate(NamedTuple):
    """Events and tokens per second of CPU time, and per second by the clock."""

    cpu: float
    clock: float


def measure() -> list[Row]:
    """Count the events of a real node, in small batches and in those of a backlog, then tokens."""
    mixed, tokens = mixed_events(), [tokens_event(random.Random(1), tokens=_TOKENS)]
    backlog = list(pack_backlog(mixed, _BACKLOG_EVENTS))
    return [
        *_compare("events as a node emits them", mixed, list(pack(mixed, _BATCH_EVENTS, _BATCHES))),
        *_compare("the same from a node that is behind", mixed, backlog),
        *_compare("TokensGenerated alone", tokens, list(pack(tokens, _BATCH_EVENTS, _BATCHES))),
    ]


def _compare(what: str, events: Sequence[Event], batches: Sequence[bytes]) -> Iterator[Row]:
    weight = sum(map(_weigh, events)) / len(events)
    decoded, counted, kept = _time_rounds(batches, _ROUNDS, _decode, _count, _keep)
    (carried,) = _time_rounds(batches, _CARRIED, _carry)
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
    batches: Sequence[bytes], rounds: int, *variants: Callable[[Sequence[bytes]], Seconds]
) -> list[Rate]:
    """Return the best rate of each variant, because other load only slows it."""
    count = sum(len(_accept(message).happened) for message in batches)
    timed = [[variant(batches) for variant in variants] for _ in range(rounds)]
    return [
        Rate(
            count / min(taken.cpu for taken in column), count / min(taken.clock for taken in column)
        )
        for column in zip(*timed, strict=True)
    ]


@contextmanager
def _timed() -> Iterator[list[Seconds]]:
    """Yield a list that holds the time of the block at its end."""
    taken: list[Seconds] = []
    cpu_began, began = time.process_time(), time.perf_counter()
    yield taken
    taken.append(Seconds(time.process_time() - cpu_began, time.perf_counter() - began))


def _accept(message: bytes) -> Accepted:
    accepted = decode_batch(message)
    assert isinstance(accepted, Accepted)
    return accepted


def _decode(batches: Sequence[bytes]) -> Seconds:
    with _timed() as taken:
        for message in batches:
            _accept(message)
    return taken[0]


def _count(batches: Sequence[bytes]) -> Seconds:
    ingest = Ingest(State(), ExporterSettings.node_timeout_seconds)
    with _timed() as taken:
        for message in batches:
            ingest.count(_accept(message), 0.0, 0.0)
    return taken[0]


def _keep(batches: Sequence[bytes]) -> Seconds:
    with tempfile.TemporaryDirectory() as name:
        store = open_store(Path(name), State, ExporterSettings.node_timeout_seconds)
        with _timed() as taken:
            trio.run(_take_all, store, batches)
            store.close()
    return taken[0]


async def _take_all(store: Store, batches: Sequence[bytes]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.watch_nodes, name="node silence")
        nursery.start_soon(store.keep_journal, name="journal upkeep")
        for message in batches:
            reply = await store.take(message, 0, set)
            assert reply.durable
        nursery.cancel_scope.cancel()


def _carry(batches: Sequence[bytes]) -> Seconds:
    """Send to an exporter in its own process, and count the CPU time of that process only."""
    with tempfile.TemporaryDirectory() as name, run_exporter(Path(name)) as exporter:
        cpu_before, began = exporter.cpu_seconds(), time.perf_counter()
        send(Path(name), batches)
        seconds = time.perf_counter() - began
        return Seconds(exporter.cpu_seconds() - cpu_before, seconds)
