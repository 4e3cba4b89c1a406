"""The outbox keeps events, numbered and within bounds, until they are acknowledged."""

import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from node.telemetry.outbox import Outbox
from shared import wire
from shared.events.api import HttpFinished
from shared.events.event import Event
from shared.events.every import AnyEvent
from shared.events.requests import TokensGenerated


def read(written: bytes) -> tuple[wire.Batch, list[Event]]:
    batch = msgspec.msgpack.decode(written, type=wire.Batch)
    return batch, list(msgspec.msgpack.decode(batch.events, type=list[AnyEvent]))


def number(event: Event) -> int:
    assert isinstance(event, TokensGenerated)
    return event.count


def emit(outbox: Outbox, numbers: range) -> None:
    for each in numbers:
        outbox.emit(TokensGenerated("m", each))


def drain(outbox: Outbox, now: float = 0.0) -> Iterator[tuple[wire.Batch, list[Event]]]:
    """Take and acknowledge batches until nothing is left."""
    while not outbox.empty:
        yield read(outbox.next_batch(now))
        outbox.acknowledge()


def check_account(outbox: Outbox, emitted: int, **dropped: int) -> None:
    """Check the totals at the end of the session."""
    batch, happened = read(outbox.next_batch(0.0, goodbye=True))
    assert not happened
    assert batch.emitted == emitted
    assert batch.dropped == dropped
    assert batch.emitted == batch.first_sequence - 1 + sum(
        count for reason, count in dropped.items() if reason != "rejected"
    )


def test_events_are_numbered_from_1() -> None:
    """A batch has the session and the number of its first event; the next one continues."""
    outbox = Outbox("n", "s", 0.0)
    emit(outbox, range(3))
    batch, happened = read(outbox.next_batch(0.0))
    assert (batch.protocol, batch.node_id, batch.session) == (wire.PROTOCOL, "n", "s")
    assert (batch.first_sequence, batch.emitted, batch.goodbye) == (1, 3, False)
    assert list(map(number, happened)) == [0, 1, 2]
    outbox.acknowledge()
    emit(outbox, range(3, 5))
    batch, happened = read(outbox.next_batch(0.0))
    assert (batch.first_sequence, batch.emitted, len(happened)) == (4, 5, 2)


def test_batch_stays_the_same_until_acknowledged() -> None:
    """An unacknowledged batch is sent again with the same bytes."""
    outbox = Outbox("n", "s", 0.0, events_limit=2)
    emit(outbox, range(2))
    sent = outbox.next_batch(1.0)
    emit(outbox, range(5))
    assert outbox.next_batch(9.0) == sent
    assert outbox.next_batch(9.0, goodbye=True) == sent
    outbox.acknowledge()
    assert read(outbox.next_batch(9.0))[0].first_sequence == 3


def test_heartbeat_is_an_empty_batch() -> None:
    """With no events an empty batch is sent, and acknowledging it changes nothing."""
    outbox = Outbox("n", "s", 0.0)
    batch, happened = read(outbox.next_batch(1.0))
    assert (batch.first_sequence, batch.emitted, happened) == (1, 0, [])
    emit(outbox, range(1))
    outbox.acknowledge()
    assert len(list(drain(outbox))) == 1


def test_heartbeat_carries_the_totals() -> None:
    """A heartbeat reports drops as well."""
    outbox = Outbox("n", "s", 0.0, events_limit=0)
    emit(outbox, range(3))
    check_account(outbox, 3, buffer_full=3)


def test_batches_are_cut_by_bytes() -> None:
    """Batches are cut at the limit of bytes without losing an event."""
    outbox = Outbox("n", "s", 0.0)
    long_name = "m" * 1000
    for each in range(1000):
        outbox.emit(TokensGenerated(long_name, each))
    numbers: list[int] = []
    for batch, happened in drain(outbox):
        assert len(batch.events) <= wire.BATCH_BYTES + 5
        assert batch.first_sequence == len(numbers) + 1
        assert batch.emitted == len(numbers) + len(happened)
        numbers += map(number, happened)
    assert numbers == list(range(1000))


def test_batch_that_was_sent_takes_no_more_events() -> None:
    """A batch that was sent takes no more events; they go with the next one."""
    outbox = Outbox("n", "s", 0.0)
    emit(outbox, range(1))
    outbox.next_batch(0.0)
    emit(outbox, range(1, 3))
    assert [len(happened) for _, happened in drain(outbox)] == [1, 2]


def test_full_buffer_drops_the_newest() -> None:
    """At the limit of events the newest is dropped and counted."""
    outbox = Outbox("n", "s", 0.0, events_limit=3)
    emit(outbox, range(5))
    ((batch, happened),) = drain(outbox)
    assert list(map(number, happened)) == [0, 1, 2]
    assert (batch.emitted, batch.dropped) == (5, {"buffer_full": 2})


def test_full_backlog_drops_the_newest() -> None:
    """At the limit of bytes the newest is dropped and counted, until there is room again."""
    size = len(msgspec.msgpack.encode(TokensGenerated("m", 1)))
    outbox = Outbox("n", "s", 0.0, backlog_bytes=3 * size)
    emit(outbox, range(5))
    ((batch, happened),) = drain(outbox)
    assert list(map(number, happened)) == [0, 1, 2]
    assert (batch.emitted, batch.dropped) == (5, {"backlog_full": 2})
    emit(outbox, range(5, 8))
    ((batch, happened),) = drain(outbox)
    assert list(map(number, happened)) == [5, 6, 7]
    check_account(outbox, 8, backlog_full=2)


def test_oversize_event_is_dropped_alone() -> None:
    """An event too large for a batch is dropped and counted; the others are sent."""
    outbox = Outbox("n", "s", 0.0)
    outbox.emit(HttpFinished("a", "GET", 200, 0.5))
    outbox.emit(HttpFinished("b" * wire.EVENT_BYTES, "GET", 200, 0.5))
    outbox.emit(HttpFinished("c", "GET", 200, 0.5))
    ((batch, happened),) = drain(outbox)
    assert [event.route for event in happened if isinstance(event, HttpFinished)] == ["a", "c"]
    assert (batch.emitted, batch.dropped) == (3, {"oversize": 1})


def test_event_that_cannot_be_packed_is_dropped_alone() -> None:
    """An event that cannot be packed is dropped and counted; the others are sent."""
    outbox = Outbox("n", "s", 0.0)
    emit(outbox, range(1))
    outbox.emit(TokensGenerated("\ud800", 1))
    emit(outbox, range(1, 2))
    ((batch, happened),) = drain(outbox)
    assert list(map(number, happened)) == [0, 1]
    assert batch.emitted == 3
    assert sum(batch.dropped.values()) == 1


def test_rejected_batch_is_counted_as_dropped() -> None:
    """A rejected batch is counted as dropped, and the numbers continue."""
    outbox = Outbox("n", "s", 0.0)
    emit(outbox, range(3))
    outbox.next_batch(0.0)
    outbox.acknowledge(rejected=True)
    emit(outbox, range(2))
    ((batch, _),) = drain(outbox)
    assert (batch.first_sequence, batch.emitted, batch.dropped) == (4, 5, {"rejected": 3})
    check_account(outbox, 5, rejected=3)


def test_rejected_heartbeat_drops_nothing() -> None:
    """A rejected heartbeat drops nothing."""
    outbox = Outbox("n", "s", 0.0)
    outbox.next_batch(0.0)
    outbox.acknowledge(rejected=True)
    check_account(outbox, 0)


def test_goodbye_comes_after_the_last_event() -> None:
    """The goodbye is in the last batch, after all events."""
    outbox = Outbox("n", "s", 0.0)
    emit(outbox, range(1))
    assert not read(outbox.next_batch(0.0, goodbye=True))[0].goodbye
    outbox.acknowledge()
    assert read(outbox.next_batch(0.0, goodbye=True))[0].goodbye


def test_age_counts_from_the_last_collection() -> None:
    """The age of a batch is an upper bound of its oldest event's wait, and never negative."""
    outbox = Outbox("n", "s", 10.0)
    emit(outbox, range(1))
    assert read(outbox.next_batch(12.5))[0].age_seconds == 2.5
    outbox.acknowledge()
    assert read(outbox.next_batch(13.0))[0].age_seconds == 0
    emit(outbox, range(1))
    assert read(outbox.next_batch(12.0))[0].age_seconds == 0


def test_event_between_two_steps_of_a_collection_is_kept() -> None:
    """An event that another thread emits during a collection is in the next batch."""
    outbox = Outbox("n", "s", 0.0)

    class Interrupted(list[Event]):
        """A list on which another thread acts between any two steps."""

        def __getitem__(self, place: Any) -> Any:
            taken = super().__getitem__(place)
            self.append(TokensGenerated("m", 2))
            return taken

    outbox._pending = Interrupted()
    emit(outbox, range(2))
    assert list(map(number, read(outbox.next_batch(0.0))[1])) == [0, 1]
    outbox.acknowledge()
    assert list(map(number, read(outbox.next_batch(0.0))[1])) == [2]


def test_events_of_many_threads_are_neither_lost_nor_doubled() -> None:
    """Any thread may emit while another collects."""
    outbox = Outbox("n", "s", 0.0, events_limit=500)
    threads, each = 8, 4000
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        running = [
            threading.Thread(target=emit, args=(outbox, range(first, first + each)))
            for first in range(0, threads * each, each)
        ]
        for thread in running:
            thread.start()
        numbers: list[int] = []
        while any(thread.is_alive() for thread in running):
            numbers += [number(e) for _, happened in drain(outbox) for e in happened]
        for thread in running:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    numbers += [number(e) for _, happened in drain(outbox) for e in happened]
    assert len(set(numbers)) == len(numbers)
    batch, _ = read(outbox.next_batch(0.0))
    assert batch.emitted == threads * each
    assert len(numbers) + sum(batch.dropped.values()) == threads * each
    for first in range(0, threads * each, each):
        of_thread = [n for n in numbers if first <= n < first + each]
        assert of_thread == sorted(of_thread)


def test_forked_process_takes_no_events() -> None:
    """A forked copy neither keeps events nor sends the parent's again."""
    outbox = Outbox("n", "s", 0.0)
    outbox.emit(TokensGenerated("m", 1))
    child = os.fork()
    if child == 0:
        outbox.emit(TokensGenerated("m", 1))
        os._exit(0 if outbox.empty else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert read(outbox.next_batch(1.0))[0].emitted == 1


@pytest.mark.parametrize("spoilt", [0, 63, 64, 130])
def test_one_bad_event_among_many_is_dropped_alone(spoilt: int) -> None:
    """Events that are packed together lose only the one that cannot be packed, and keep order."""
    outbox = Outbox("n", "s", 0.0)
    for each in range(200):
        name = "\ud800" if each == spoilt else "m"
        outbox.emit(TokensGenerated(name, each))
    ((batch, happened),) = drain(outbox)
    assert list(map(number, happened)) == [each for each in range(200) if each != spoilt]
    assert (batch.emitted, batch.dropped) == (200, {"unencodable": 1})
