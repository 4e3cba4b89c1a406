"""The node's end of the telemetry: events wait here, numbered and packed, until they are counted.

No I/O and no clock: the carrier (`node.telemetry.carrier`) moves the batches. Two limits bound the
node's memory while the exporter is missing: the number of events not packed yet, and the bytes of
packed events. Beyond either limit, the newest event is dropped and counted by reason.
"""

import logging
import os
import threading
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import msgspec

from shared import wire
from shared.events.event import Event

EVENTS_LIMIT: Final = 65_536
"""Limit of events that are not packed yet; they are packed several times a second."""
BACKLOG_BYTES: Final = 16 * 2**20
"""Limit of packed events while no exporter accepts them: several hundred thousand events."""

_TOGETHER: Final = 64
"""Events that are packed in one call, so that a usual event is far from `wire.EVENT_BYTES`."""

BUFFER_FULL: Final = "buffer_full"
BACKLOG_FULL: Final = "backlog_full"
OVERSIZE: Final = "oversize"
UNENCODABLE: Final = "unencodable"
REJECTED: Final = "rejected"
_UNPACKABLE: Final = (TypeError, ValueError, OverflowError)
"""What msgspec raises for an event that cannot be encoded."""

_log = logging.getLogger(__name__)


@dataclass
class _Chunk:
    """Consecutive packed events that are sent together; `sent` is set once they were sent."""

    first_sequence: int
    since: float
    count: int = 0
    packed: bytearray = field(default_factory=bytearray)
    sent: bytes | None = None


class Outbox:
    """A bounded buffer between the tasks that emit and the one task that carries.

    Args:
        node_id: The node's name.
        session: The name of this run of the node.
        now: The time on the clock of `collect` and `next_batch`, in seconds.
        events_limit: Limit of events that wait to be packed.
        backlog_bytes: Limit of packed events that wait for the exporter, in bytes.
    """

    def __init__(
        self,
        node_id: str,
        session: str,
        now: float,
        *,
        events_limit: int = EVENTS_LIMIT,
        backlog_bytes: int = BACKLOG_BYTES,
    ) -> None:
        self._node_id = node_id
        self._session = session
        self._events_limit = events_limit
        self._backlog_limit = backlog_bytes
        self._pending: list[Event] = []
        self._chunks: deque[_Chunk] = deque()
        self._backlog = 0
        self._sequence = 0
        self._refused = 0
        self._dropped: dict[str, int] = {}
        self._refuse_lock = threading.Lock()
        self._collected_at = now
        self._encoder = msgspec.msgpack.Encoder()
        _disable_after_fork(self)

    def emit(self, event: Event) -> None:
        """Add one event. Never blocks, never raises; safe from any thread.

        This append is the whole cost on a request's path; `list.append` is atomic.
        """
        if len(self._pending) < self._events_limit:
            self._pending.append(event)
        else:
            self._refuse(BUFFER_FULL)

    @property
    def empty(self) -> bool:
        """Whether every added event was acknowledged."""
        return not self._pending and not self._chunks

    def collect(self, now: float) -> None:
        """Number and pack the events that were emitted until now."""
        count = len(self._pending)
        events = self._pending[:count]
        del self._pending[:count]  # the slice excludes what other threads append meanwhile
        for start in range(0, count, _TOGETHER):
            self._put_together(events[start : start + _TOGETHER])
        self._collected_at = now

    @property
    def is_behind(self) -> bool:
        """Whether more events wait than fit in one batch."""
        return len(self._chunks) > 1

    def next_batch(self, now: float, *, goodbye: bool = False) -> bytes:
        """Return the bytes of the oldest batch not yet acknowledged; the same until it is.

        Without events it is an empty batch, the heartbeat. `goodbye` marks the last batch of the
        session. That batch is always rebuilt, because a batch that was sent without the mark must
        not change.
        """
        self.collect(now)
        if not self._chunks:
            return self._pack(_Chunk(self._sequence + 1, now), now, goodbye=goodbye)
        chunk = self._chunks[0]
        if chunk.sent is None:
            chunk.sent = self._pack(chunk, now, goodbye=False)
        return chunk.sent

    def acknowledge(self, *, rejected: bool = False) -> None:
        """Remove the batch that `next_batch` returned: it is counted, or never will be."""
        if not self._chunks or self._chunks[0].sent is None:
            return  # a heartbeat
        chunk = self._chunks.popleft()
        self._backlog -= len(chunk.packed)
        if rejected:
            self._dropped[REJECTED] = self._dropped.get(REJECTED, 0) + chunk.count

    def _put_together(self, events: list[Event]) -> None:
        """Pack events in one call, or one by one if any of them may have to be dropped.

        One call for all costs a fraction of one for each.
        """
        try:
            packed = wire.array_content(self._encoder.encode(events))
        except _UNPACKABLE:
            packed = None
        room = min(wire.EVENT_BYTES, self._backlog_limit - self._backlog)
        if packed is not None and len(packed) <= room:
            self._add(packed, len(events))
        else:
            for event in events:
                self._put(event)

    def _put(self, event: Event) -> None:
        try:
            packed = self._encoder.encode(event)
        except _UNPACKABLE:
            self._refuse(UNENCODABLE)
            return
        if len(packed) > wire.EVENT_BYTES:
            self._refuse(OVERSIZE)
        elif self._backlog + len(packed) > self._backlog_limit:
            self._refuse(BACKLOG_FULL)
        else:
            self._add(packed, 1)

    def _add(self, packed: bytes, count: int) -> None:
        chunk = self._open_chunk(len(packed))
        self._sequence += count
        self._backlog += len(packed)
        chunk.count += count
        chunk.packed += packed

    def _open_chunk(self, room: int) -> _Chunk:
        tail = self._chunks[-1] if self._chunks else None
        if tail is None or tail.sent or len(tail.packed) + room > wire.BATCH_BYTES:
            # The events were emitted after the last collection, so this is an upper bound of their
            # age.
            tail = _Chunk(self._sequence + 1, self._collected_at)
            self._chunks.append(tail)
        return tail

    def _refuse(self, reason: str) -> None:
        with self._refuse_lock:  # adding is not atomic, and any thread may emit
            self._refused += 1
            self._dropped[reason] = self._dropped.get(reason, 0) + 1

    def _pack(self, chunk: _Chunk, now: float, *, goodbye: bool) -> bytes:
        batch = wire.Batch(
            protocol=wire.PROTOCOL,
            node_id=self._node_id,
            session=self._session,
            first_sequence=chunk.first_sequence,
            # As of the last event here: later events are in flight, not lost.
            emitted=chunk.first_sequence + chunk.count - 1 + self._refused,
            dropped=dict(self._dropped),
            age_seconds=max(0.0, now - chunk.since),
            goodbye=goodbye,
            events=msgspec.Raw(wire.pack_events(chunk.count, chunk.packed)),
        )
        return self._encoder.encode(batch)

    def disable(self) -> None:
        """Drop all further events in a forked process: it has no carrier.

        The parent keeps its events. The lock is replaced because a thread that the fork did not
        copy may have held it.
        """
        self._refuse_lock = threading.Lock()
        self._events_limit = 0
        self._pending.clear()
        self._chunks.clear()


def _disable_after_fork(outbox: Outbox) -> None:
    remembered = weakref.ref(outbox)

    def disable() -> None:
        if (found := remembered()) is not None:
            found.disable()
            _log.error(
                "process %d was forked from a node: its metric events are dropped", os.getpid()
            )

    os.register_at_fork(after_in_child=disable)
