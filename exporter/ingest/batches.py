"""Decides what each message from the telemetry socket means, so that each event counts once."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from exporter.metrics.catalogue.family import OTHER
from exporter.metrics.catalogue.node import NODE_ENDS
from exporter.metrics.catalogue.telemetry import BATCHES, DROPPED, DROPS, DUPLICATES, EMITTED
from exporter.metrics.nodes import Node, Session
from exporter.metrics.state import State
from shared import wire
from shared.events.event import Event
from shared.events.every import AnyEvent
from shared.settings.kinds import NODE_ID

_SESSIONS_KEPT: Final = 8
"""Sessions to remember per node, so that a late copy of a batch is recognized."""
_DAMAGED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for malformed bytes."""

_log = logging.getLogger(__name__)
_batch_decoder = msgspec.msgpack.Decoder(wire.Batch)
_raw_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_event_decoder = msgspec.msgpack.Decoder(AnyEvent)
_events_decoder = msgspec.msgpack.Decoder(list[AnyEvent])


@dataclass(frozen=True)
class Accepted:
    """A batch that will be counted."""

    batch: wire.Batch
    happened: list[Event | None]
    """Its events; None for an event that this exporter does not know."""
    pipe: int
    """The connection that delivered it; -1 if it was read back from the journal."""


@dataclass(frozen=True)
class Counted:
    """Events of a node that were just counted, none of them for the second time."""

    node_id: str
    happened: Sequence[Event | None]
    received_at: float
    """Unix time."""


class Ingest:
    """Turns batches into changes of a state. No I/O: the same batches give the same state.

    Args:
        state: The state that the batches change.
        timeout_seconds: A node that is silent for this long counts as gone.
    """

    def __init__(self, state: State, timeout_seconds: float) -> None:
        self.state: Final = state
        self._timeout = timeout_seconds
        self._greeted: set[str] = set()
        """Nodes whose levels this process has requested."""

    def examine(
        self, message: bytes, now: float, pipe: int, live: Callable[[], Container[int]]
    ) -> Accepted | wire.Reply:
        """Read a message. Refuse it while another live node has its node's name.

        Args:
            message: The received bytes, perhaps not from a node at all.
            now: The time on the clock of `count` and `silent`, in seconds.
            pipe: The connection that delivered it.
            live: Returns the connections that are open now.
        """
        accepted = decode_batch(message, pipe)
        if isinstance(accepted, wire.Reply):
            return accepted
        node = self.state.nodes.get(accepted.batch.node_id)
        if node and node.up and node.current != accepted.batch.session and node.pipe in live():
            if now - node.conflict_at > self._timeout:
                _log.error("two nodes are named %s: one of them is not counted", node.node_id)
            node.conflict_at = now
            return refusal("conflict")
        return accepted

    def count(self, accepted: Accepted, now: float | None, received_at: float) -> wire.Reply:
        """Count a batch and return the reply. The caller decides whether it is durable.

        Args:
            accepted: The batch.
            now: The time on the clock of `silent`, in seconds; None for a batch from the journal.
            received_at: Unix time of its arrival.
        """
        batch = accepted.batch
        node = self.state.node(batch.node_id)
        session = self._enter(node, batch.session)
        levels_wanted = now is not None and not batch.goodbye and self._greet(node)
        node.up, node.heard_at, node.pipe = True, now, accepted.pipe
        node.heard_time, node.lag_seconds = received_at, batch.age_seconds
        self._count_events(node, session, accepted)
        self._reckon(node, session, batch)
        if batch.goodbye:
            self._end(node, "goodbye")
        return wire.Reply(wire.PROTOCOL, session.sequence, False, levels_wanted, "")

    def fresh(self, accepted: Accepted) -> Sequence[Event | None]:
        """Return the events of a batch that are not counted yet."""
        batch, happened = accepted.batch, accepted.happened
        node = self.state.nodes.get(batch.node_id)
        session = None if node is None else node.sessions.get(batch.session)
        counted = 0 if session is None else session.sequence - batch.first_sequence + 1
        return happened[counted:] if counted > 0 else happened

    def silent(self, now: float) -> list[str]:
        """Return the nodes that have now been silent for too long; pass them to `lose`."""
        gone = []
        for node in self.state.nodes.values():
            if node.heard_at is None:  # recovered: silence counts from now on
                node.heard_at = now
            elif node.up and now - node.heard_at > self._timeout:
                gone.append(node.node_id)
        return gone

    def excuse(self, seconds: float, now: float) -> None:
        """Exclude a pause of this process from the nodes' silence: their messages are queued.

        Args:
            seconds: The length of the pause, which ends now.
            now: The time on the clock of `silent`, in seconds.
        """
        for node in self.state.nodes.values():
            if node.heard_at is not None:  # and perhaps since the pause
                node.heard_at = min(node.heard_at + seconds, now)

    def lose(self, node_id: str) -> None:
        """Record that a node is gone without a goodbye."""
        self._end(self.state.node(node_id), "lost")

    def _end(self, node: Node, reason: str) -> None:
        """Remove what was only true while the node lived."""
        self.state.move(NODE_ENDS, (node.node_id, reason), 1)
        node.up = False
        node.departed = reason == "goodbye"
        node.state = "offline"
        node.models.clear()
        node.pages.clear()
        self._greeted.discard(node.node_id)
        self.state.forget_levels(node.node_id)
        self.state.forget_peer(node.node_id)

    def _enter(self, node: Node, name: str) -> Session:
        """Return the session that a batch belongs to; a new session replaces the node's levels."""
        if name != node.current and node.up:
            self.lose(node.node_id)
        if name not in node.sessions:
            node.sessions[name] = Session(name)
            if len(node.sessions) > _SESSIONS_KEPT:
                node.lost_before += node.sessions.pop(next(iter(node.sessions))).lost
        node.current = name
        return node.sessions[name]

    def _greet(self, node: Node) -> bool:
        """Return whether the node's levels must be requested."""
        if node.up and node.node_id in self._greeted:
            return False
        self._greeted.add(node.node_id)
        return True

    def _count_events(self, node: Node, session: Session, accepted: Accepted) -> None:
        first, happened = accepted.batch.first_sequence, accepted.happened
        fresh = self.fresh(accepted)
        seen = len(happened) - len(fresh)
        self.state.apply(node, session, fresh)
        self.state.move(BATCHES, (node.node_id,), 1)
        self.state.move(DUPLICATES, (node.node_id,), seen)
        if fresh:
            session.applied += len(fresh)
            session.sequence = first + len(happened) - 1

    def _reckon(self, node: Node, session: Session, batch: wire.Batch) -> None:
        """Update the proof's two other terms: emitted and dropped."""
        self.state.move_total(session, EMITTED, (node.node_id,), batch.emitted)
        dropped: Counter[str] = Counter()
        for reason, count in batch.dropped.items():
            dropped[reason if reason in DROPS else OTHER] += count
        for reason, count in dropped.items():
            self.state.move_total(session, DROPPED, (node.node_id, reason), count)


def decode_batch(message: bytes, pipe: int = -1) -> Accepted | wire.Reply:
    """Return the decoded message, or the refusal of one that is not a batch. Never raises."""
    try:
        batch = _batch_decoder.decode(message)
        if batch.protocol != wire.PROTOCOL:
            return refusal("protocol")
        happened = _decode(batch.events)
    except _DAMAGED:
        return refusal("protocol" if _is_of_another_protocol(message) else "malformed")
    if not _is_sane(batch, len(happened)):
        return refusal("malformed")
    return Accepted(batch, happened, pipe)


def refusal(reason: str) -> wire.Reply:
    """Return the reply to a message that is not counted."""
    return wire.Reply(wire.PROTOCOL, 0, False, False, reason)


def _is_sane(batch: wire.Batch, count: int) -> bool:
    totals = (batch.emitted, *batch.dropped.values())
    return (
        NODE_ID.fullmatch(batch.node_id) is not None
        and batch.first_sequence >= 1
        and batch.emitted >= batch.first_sequence - 1 + count
        and all(total >= 0 for total in totals)
        and 0 <= batch.age_seconds < math.inf
        and len(batch.session) <= wire.SESSION_CHARACTERS
    )


def _is_of_another_protocol(message: bytes) -> bool:
    """Return whether it looks like a batch of a version with another batch format."""
    try:
        first, *_ = _raw_decoder.decode(message)
        return msgspec.msgpack.decode(first, type=int) != wire.PROTOCOL
    except (*_DAMAGED, ValueError):
        return False


def _decode(packed: msgspec.Raw) -> list[Event | None]:
    """Decode all events at once, which is several times faster, or singly if some are unknown."""
    try:
        return _events_decoder.decode(packed)  # type: ignore[return-value]
    except _DAMAGED:
        return [_decode_one(raw) for raw in _raw_decoder.decode(packed)]


def _decode_one(raw: msgspec.Raw) -> Event | None:
    try:
        event: Event = _event_decoder.decode(raw)
    except _DAMAGED:
        return None
    return event
