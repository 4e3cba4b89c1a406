"""The known peers, each with its state; no I/O and no clock."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from node.mesh.address_book import AddressBook
from node.mesh.identity import Identity
from node.mesh.peer import ROUND_SECONDS, Peer, PeerView
from shared.events.mesh import NetworkFault, PeerState

_COMPLAINT_SECONDS: Final = 60.0
_PEERS_PER_SECOND: Final = 32
"""With more peers than this, a round gets longer, so that its cost per node stays the same."""


@dataclass(frozen=True)
class Change:
    """A change of a peer's state or status; `after` is None if the peer was forgotten."""

    node_id: str
    before: PeerState | None
    after: PeerState | None
    why: str = ""


@dataclass(frozen=True)
class Trouble:
    """A problem that an operator should fix."""

    reason: NetworkFault
    text: str


class PeerTable:
    """Peers by name, up to a limit.

    Args:
        me: This node's identity.
        own_addresses: The addresses on which it listens.
        limit: Limit of peers in the table.
    """

    def __init__(self, me: Identity, own_addresses: Iterable[str], limit: int) -> None:
        self.book: Final = AddressBook(own_addresses)
        self.happened: list[Change | Trouble] = []
        """Changes for the caller to report and remove."""
        self.has_new_suspect = False
        """Whether a peer has become suspect; the caller resets it."""
        self.round_seconds = ROUND_SECONDS
        """The time between two surveys."""
        self._own_mark = _mark(me.node_id, me.incarnation)
        self.view = self._own_mark
        """Identifies the set of living nodes, this one included."""
        self._limit = limit
        self._peers: dict[str, Peer] = {}
        self._complained: dict[str, float] = {}

    def judge(self, now: float, late_seconds: float, lag_seconds: float) -> None:
        """Update each peer's state from its silence.

        Args:
            now: The time on the caller's monotonic clock, in seconds.
            late_seconds: How long the caller could hear nothing; peers are not blamed for it.
            lag_seconds: How late the caller's loop has been recently.
        """
        for peer in list(self._peers.values()):
            peer.heard_at = min(now, peer.heard_at + late_seconds)
            if peer.lost_at is not None:
                peer.lost_at = min(now, peer.lost_at + late_seconds)
            state = peer.judge(now, lag_seconds)
            if state is None:
                self._forget(peer)
            elif state != peer.state:
                why = "connection lost" if peer.lost_at is not None else "silent"
                self.turn(peer, state, now, why)
        self.book.expire(now)

    def lose(self, address: str, now: float) -> None:
        """Mark the peers whose connection to an address broke as suspect."""
        for peer in self.living():
            if peer.link == address:
                peer.lost_at = now
                self.turn(peer, "suspect", now, "connection lost")

    def find(self, node_id: str) -> Peer | None:
        """Return the record of a peer, which the caller may change."""
        return self._peers.get(node_id)

    def enter(self, node_id: str, now: float) -> Peer | None:
        """Add a peer; in a full table it replaces one that has gone.

        Returns:
            The peer, without a state yet; None if there is no room.
        """
        if len(self._peers) >= self._limit:
            gone = [peer for peer in self._peers.values() if not peer.is_living]
            if not gone:
                text = (
                    f"{self._limit} peers are known, which is the limit: further nodes are ignored"
                )
                self.complain("overflow", "", text, now)
                return None
            self._forget(min(gone, key=lambda peer: peer.since))
        peer = Peer(node_id, "dead", now, now)  # until the caller sets it
        self._peers[node_id] = peer
        return peer

    def turn(self, peer: Peer, state: PeerState, now: float, why: str) -> None:
        """Set a peer's state, if it differs."""
        before = peer.state if peer.known else None
        if before == state and peer.joined_at != now:
            return
        peer.known, peer.state, peer.since = True, state, now
        self.has_new_suspect |= state == "suspect"
        if not peer.is_living:
            self.book.drop_aliases(peer.node_id)
        self.book.changed = True
        self._count_again()
        self.happened.append(Change(peer.node_id, before, state, why))

    def complain(self, reason: NetworkFault, about: str, text: str, now: float) -> None:
        """Report a problem, at most once a minute while it lasts."""
        recent = {a: at for a, at in self._complained.items() if now - at < _COMPLAINT_SECONDS}
        self._complained = recent
        if about not in recent and len(recent) < self._limit:
            recent[about] = now
            self.happened.append(Trouble(reason, text))

    def living(self) -> list[Peer]:
        """Return the peers that count as members now."""
        return [peer for peer in self._peers.values() if peer.is_living]

    def views(self, now: float) -> list[PeerView]:
        """Return a copy of the table by name."""
        return [self._peers[node_id].view(now) for node_id in sorted(self._peers)]

    def count(self, state: PeerState) -> int:
        """Count the peers in a state."""
        return sum(peer.state == state for peer in self._peers.values())

    def wanted(self) -> set[str]:
        """Return the addresses to dial."""
        peers = self._peers.values()
        return self.book.wanted(address for peer in peers for address in peer.addresses())

    def answering(self) -> set[str]:
        """Return the addresses at which a peer has recently answered."""
        return {peer.link for peer in self.living()}

    def _forget(self, peer: Peer) -> None:
        del self._peers[peer.node_id]
        self.book.drop_aliases(peer.node_id)
        self._count_again()
        self.happened.append(Change(peer.node_id, peer.state, None))

    def _count_again(self) -> None:
        # The dead count, because they may return. If load only makes peers look dead, more messages
        # would add to the load.
        asked = sum(peer.state not in ("left", "incompatible") for peer in self._peers.values())
        self.round_seconds = max(ROUND_SECONDS, asked / _PEERS_PER_SECOND)
        self.view = self._own_mark
        for peer in self.living():
            self.view ^= _mark(peer.node_id, peer.incarnation)


def _mark(node_id: str, incarnation: int) -> int:
    """Return 63 bits that identify one run of a node."""
    text = f"{node_id}\0{incarnation}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
