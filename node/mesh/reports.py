"""Reports what happens in the mesh: events for the exporter, lines for the log."""

import ipaddress
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import trio

from node.mesh.messages import Head
from node.mesh.peer import PeerView
from node.mesh.peer_table import Change, PeerTable, Trouble
from node.mesh.traffic import Traffic
from shared.events.event import Event
from shared.events.mesh import PeerAnswered, PeerChanged, PeerForgotten, PeersCounted, PeerState
from shared.repeats import Repeats

_LINES: Final[dict[PeerState, tuple[int, str]]] = {
    "suspect": (logging.WARNING, "is suspect"),
    "dead": (logging.WARNING, "is dead"),
    "left": (logging.INFO, "left"),
    "incompatible": (logging.WARNING, "is incompatible"),
}

_log = logging.getLogger(__name__)


class Reporter:
    """Turns what the mesh observes into events and log lines.

    Args:
        table: The peers.
        emit: Receives events.
    """

    def __init__(self, table: PeerTable, emit: Callable[[Event], None]) -> None:
        self.traffic: Final = Traffic()
        self._table = table
        self._emit = emit
        self._repeats = Repeats(_log, trio.current_time)

    def report(self) -> None:
        """Emit the counts since the last report."""
        for event in self.traffic.report():
            self._emit(event)
        self._emit(self._count())

    def levels(self, peers: Iterable[PeerView]) -> Iterator[Event]:
        """Yield the current value of every level."""
        for peer in peers:
            status = peer.advert.status if peer.advert else "unknown"
            yield PeerChanged(peer.node_id, peer.state, status)
        yield self._count()

    def answered(self, node_id: str, seconds: float) -> None:
        """Report how long a peer took to answer a survey."""
        self._emit(PeerAnswered(node_id, "survey", seconds))

    def report_changes(self) -> None:
        """Emit and log the changes of peers since the last call."""
        happened, self._table.happened = self._table.happened, []
        for each in happened:
            if isinstance(each, Trouble):
                self.traffic.fail(each.reason)
                _log.error(each.text)
            elif each.after is None:
                self._emit(PeerForgotten(each.node_id))
                _log.info("peer %s was forgotten", each.node_id)
            else:
                self._report_change(each)

    def _report_change(self, change: Change) -> None:
        peer = self._table.find(change.node_id)
        if peer is None or change.after is None:
            return  # forgotten since
        self._emit(PeerChanged(change.node_id, change.after, peer.status))
        if (line := _line(change)) is not None:
            level, words = line
            why = f" ({change.why})" if change.why else ""
            _log.log(level, "peer %s at %s %s%s", peer.node_id, peer.link or "?", words, why)

    def other_secret(self, where: str) -> None:
        """Log that a message was signed with another secret.

        Args:
            where: The sender's host, or the address that was dialed.
        """
        self._repeats.note(
            "messages from %s are refused: they are signed with another mesh secret, or with "
            "none: give both nodes the same --mesh-secret-file",
            where,
            kind=f"secret {_origin(where)}",
        )

    def refused_by(self, address: str) -> None:
        """Log that the node at an address does not accept this node's secret."""
        self._repeats.note(
            "the node at %s refuses this node's messages: it has another mesh secret, or none: "
            "give both nodes the same --mesh-secret-file",
            address,
            kind=f"secret {address}",
        )

    def other_time(self, head: Head, where: str, now: float) -> None:
        """Log that a node's clock is too far from this node's, or that a message was repeated."""
        self._repeats.note(
            "messages of node %s from %s are refused: its clock is %+.0f s from this node's: "
            "set both clocks (NTP); up to 30 s are accepted",
            head.node_id,
            where,
            head.sent_at - now,
            kind=f"clock {head.node_id}",
        )

    def not_dialed(self, error: ValueError) -> None:
        """Count and log an address that cannot be dialed."""
        self.traffic.fail("connection")
        self._repeats.note("%s", error, kind=str(error))

    def not_sent(self, size_bytes: int, limit_bytes: int) -> None:
        """Count and log an advert payload that is too long to send."""
        self.traffic.fail("oversize")
        self._repeats.note(
            "this node's advert is sent without its payload of %d bytes: the limit is %d",
            size_bytes,
            limit_bytes,
            kind="payload",
        )

    def _count(self) -> PeersCounted:
        return PeersCounted(self._table.count("alive"), self._table.count("suspect"))


def _origin(where: str) -> str:
    """Return what counts as one sender; with IPv6 a network, as one host can use all of it."""
    try:
        ip = ipaddress.ip_address(where)
    except ValueError:
        return where
    return where if ip.version == 4 else str(ipaddress.ip_network((where, 64), strict=False))


def _line(change: Change) -> tuple[int, str] | None:
    """Return a change's log line and level; None if only the peer's status changed."""
    if change.after == "alive":
        words = "is here" if change.before == "alive" else "is back"
        if change.before == "alive" and not change.why:
            return None
        return logging.INFO, words if change.before else "joined"
    return _LINES[change.after or "dead"]
