"""Mutated batches never break the exporter, and its exposition stays valid."""

import random
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import settings
from prometheus_client.parser import text_string_to_metric_families

from exporter.ingest.batches import Accepted, Ingest
from exporter.metrics.cut import take_cut
from exporter.metrics.state import State
from exporter.web.exposition import Wanted, render
from shared import wire
from tests.builders import every_event, pack_batch

INPUTS = 20_000
SLOW_INPUTS = 1_000_000
SLOW_EXAMPLES = 10_000
HOSTILE: tuple[Any, ...] = (
    float("nan"),
    float("inf"),
    -1.0,
    -(2**62),
    2**63,
    "",
    "x" * 5000,
    "\x00",
    None,
    [],
    {},
)


def _flip(message: bytearray, rng: random.Random) -> None:
    message[rng.randrange(len(message))] ^= 1 << rng.randrange(8)


def _cut(message: bytearray, rng: random.Random) -> None:
    del message[rng.randrange(len(message)) :]


def _insert(message: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(message) + 1)
    message[at:at] = rng.randbytes(rng.randrange(1, 9))


def _repeat(message: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(message))
    message += message[start : start + rng.randrange(1, 200)]


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (_flip, _cut, _insert, _repeat)


def _mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    message = bytearray(rng.choice(seeds))
    for _ in range(rng.randrange(1, 4)):
        if message:
            rng.choice(MUTATIONS)(message, rng)
    return bytes(message)


def _with_hostile_values(rng: random.Random) -> bytes:
    """A batch of valid form with hostile values."""
    event = msgspec.to_builtins(rng.choice(every_event()))
    for _ in range(rng.randrange(1, 3)):
        event[rng.randrange(len(event))] = rng.choice(HOSTILE)
    packed = msgspec.msgpack.encode(event)
    first = rng.randrange(1, 2**40)
    batch = wire.Batch(
        wire.PROTOCOL,
        "n1",
        "s1",
        first,
        first,
        {},
        0.0,
        False,
        msgspec.Raw(wire.pack_events(1, packed)),
    )
    return msgspec.msgpack.encode(batch)


def test_mutated_batches_are_survived_and_shown_soundly() -> None:
    """No input raises, and afterwards every counter has a possible value."""
    rng = random.Random(20)
    count = SLOW_INPUTS if settings().max_examples >= SLOW_EXAMPLES else INPUTS
    seeds = [pack_batch(*every_event(), first=first) for first in (1, 16, 31)]
    seeds += [pack_batch(goodbye=True), pack_batch(dropped={"oversize": 3})]
    ingest = Ingest(State(budget=200), 2.5)
    taken = 0
    for number in range(count):
        message = _mutated(rng, seeds) if number % 2 else _with_hostile_values(rng)
        accepted = ingest.examine(message, float(number), 1, tuple)
        if isinstance(accepted, Accepted):
            reply = ingest.count(accepted, float(number), 1.6e9)
            assert not reply.error
            taken += 1
    assert count / 10 < taken < count
    _check(ingest.state)


def _check(state: State) -> None:
    seen = set()
    for family in text_string_to_metric_families(render(take_cut(state), Wanted()).body.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in seen
            seen.add(key)
            assert sample.value >= 0
            assert sample.value < float("inf")
