"""What a node asks, answers and believes, so that all nodes agree on the members.

Each node asks all others once in a round. An answer carries its survey's nonce, which proves that
its sender is alive at this moment: only an answer makes a peer alive. A survey from a peer proves
less, because it may be a delayed copy: it keeps a living peer alive and tells where an unknown one
can be asked. No I/O and no clock.
"""

from collections.abc import Iterable
from typing import Final

from node.mesh.identity import Identity
from node.mesh.messages import (
    CONTACTS,
    NONCE_BYTES,
    PROTOCOL,
    SUSPECTS,
    Advert,
    Contact,
    Head,
    Kind,
    Message,
)
from node.mesh.peer import NEWS_ROUNDS, Peer
from node.mesh.peer_table import Change, PeerTable

_LAG_KEPT: Final = 0.95
"""The share of a lag that still counts at the next tick: half of it after 1.4 s."""
_ECHO_SECONDS: Final = 0.3
"""A survey so soon after its sender's connection broke was already on its way."""
_AGAIN_SECONDS: Final = 0.4
"""While a peer is suspect, all peers are asked this often, so that one lost message does not make
it dead."""
_NEWS: Final = 16


class Membership:
    """One node's view of the mesh.

    Args:
        me: This node's identity.
        own_addresses: The addresses on which it listens.
        limit: Limit of the peers that it knows at once.
    """

    def __init__(self, me: Identity, own_addresses: Iterable[str], limit: int) -> None:
        self.me: Final = me
        self.table: Final = PeerTable(me, own_addresses, limit)
        self.wants_survey = True
        """Whether the next survey should not wait for its round."""
        self.lag_seconds = 0.0
        self._sequence = 0
        self._surveyed_at = 0.0

    def tick(self, now: float, late_seconds: float) -> None:
        """Judge each peer by its silence.

        Args:
            now: The time on the caller's monotonic clock, in seconds.
            late_seconds: The delay of this call. Peers are not blamed for that time, because a node
                that does not run hears nothing.
        """
        self.lag_seconds = max(late_seconds, self.lag_seconds * _LAG_KEPT)
        self.table.judge(now, late_seconds, self.lag_seconds)
        is_due = now - self._surveyed_at > _AGAIN_SECONDS and self.table.count("suspect") > 0
        self.wants_survey |= is_due
        self._ask_new_suspects()

    def survey(self, advert: Advert, now: float, sent_at: float, nonce: bytes) -> Message:
        """Return the survey for all peers."""
        self.wants_survey = False
        self._sequence += 1
        self._surveyed_at = now
        living = self.table.living()
        recent = NEWS_ROUNDS * self.table.round_seconds
        news = [peer.contact() for peer in living if now - peer.joined_at < recent]
        suspects = [peer.node_id for peer in living if peer.state == "suspect"]
        return self._write("survey", advert, sent_at, nonce, news[-_NEWS:], suspects[:SUSPECTS])

    def leave(self, advert: Advert, sent_at: float, nonce: bytes) -> Message:
        """Return the survey that says goodbye."""
        self._sequence += 1
        return self._write("leave", advert, sent_at, nonce)

    def take_survey(
        self, message: Message, advert: Advert, now: float, sent_at: float, *, repeated: bool
    ) -> Message:
        """Process a survey or a goodbye and return the answer."""
        if not repeated and message.node_id != self.me.node_id:
            self._learn(message, now)
        contacts = self._contacts() if message.view != self.table.view else []
        return self._write("answer", advert, sent_at, message.nonce, contacts)

    def reply(self, advert: Advert, sent_at: float) -> Message:
        """Return the answer to a survey that was refused, so that its sender learns the reason."""
        return self._write("answer", advert, sent_at, b"")

    def take_answer(self, message: Message, address: str, now: float, round_trip: float) -> bool:
        """Process an answer to the last survey. Return True if it came from a peer.

        Args:
            message: An authentic message with the last survey's nonce.
            address: The address that was asked.
            now: The time on the caller's monotonic clock, in seconds.
            round_trip: Seconds since the survey.
        """
        if message.node_id == self.me.node_id:
            self._meet_myself(message, address, now)
            return False
        peer = self.table.find(message.node_id)
        if peer is not None and peer.session != message.session and not _succeeds(message, peer):
            self._clash(peer.node_id, address, now)
            return False
        if peer is not None and peer.state == "left" and peer.session == message.session:
            return False  # it is leaving
        if peer is None and (peer := self.table.enter(message.node_id, now)) is None:
            return False
        self._link(peer, address, message, now)
        peer.round_trip = round_trip
        self._hear(peer, message, now)
        for contact in message.contacts:
            self._hear_of(contact, now)
        return True

    def take_incompatible(self, head: Head, now: float) -> None:
        """Add a node that uses another version of the protocol."""
        peer = self.table.find(head.node_id)
        if head.node_id == self.me.node_id or (peer is not None and peer.is_living):
            return
        if peer is None and (peer := self.table.enter(head.node_id, now)) is None:
            return
        peer.software, peer.heard_at, peer.advert = head.software, now, None
        self.table.turn(peer, "incompatible", now, f"it speaks protocol {head.protocol}")

    def connected(self, address: str) -> None:
        """Record that a dialed address accepts connections, so that it is asked at once."""
        del address
        self.wants_survey = True

    def disconnected(self, address: str, now: float) -> None:
        """Record that the connection to an address broke."""
        self.table.lose(address, now)
        self._ask_new_suspects()

    def _ask_new_suspects(self) -> None:
        self.wants_survey |= self.table.has_new_suspect
        self.table.has_new_suspect = False

    def _write(
        self,
        kind: Kind,
        advert: Advert,
        sent_at: float,
        nonce: bytes,
        contacts: Iterable[Contact] = (),
        suspects: Iterable[str] = (),
    ) -> Message:
        return Message(
            PROTOCOL,
            self.me.node_id,
            self.me.software,
            sent_at,
            kind,
            self.me.incarnation,
            self.me.session,
            self._sequence,
            nonce[:NONCE_BYTES],
            self.table.view,
            advert,
            tuple(contacts),
            tuple(suspects),
        )

    def _learn(self, message: Message, now: float) -> None:
        peer = self.table.find(message.node_id)
        if peer is not None and peer.session == message.session:
            if message.kind == "leave":
                self.table.turn(peer, "left", now, "it said goodbye")
            elif peer.is_living and not _is_echo(peer, now):
                self._hear(peer, message, now)
        elif message.kind == "survey":  # a new node, a new run, or a second node of that name
            self.table.book.hint(message.advert.addresses, now)
        if self.me.node_id in message.suspects:
            self.wants_survey = True
        for contact in message.contacts:
            self._hear_of(contact, now)

    def _hear_of(self, contact: Contact, now: float) -> None:
        """Record a hint: it tells where to ask, but does not make a peer alive."""
        peer = self.table.find(contact.node_id)
        if contact.node_id == self.me.node_id:
            is_news = contact.incarnation != self.me.incarnation
        elif peer is None or contact.incarnation > peer.incarnation:
            is_news = True
        else:
            is_news = not peer.is_living and contact.incarnation == peer.incarnation
        if is_news:
            self.table.book.hint(contact.addresses, now)

    def _hear(self, peer: Peer, message: Message, now: float) -> None:
        """Record that a peer is alive, and its advert."""
        restarted = peer.known and peer.session != message.session
        status = peer.status
        peer.incarnation, peer.session = message.incarnation, message.session
        peer.software, peer.advert = message.software, message.advert
        peer.heard_at, peer.lost_at = now, None
        peer.round_seconds = self.table.round_seconds
        if restarted or not peer.known:
            peer.joined_at = now
        if peer.state != "alive" or peer.joined_at == now:
            self.table.turn(peer, "alive", now, "it restarted" if restarted else "")
        elif status != peer.status:
            self.table.happened.append(Change(peer.node_id, "alive", "alive"))

    def _link(self, peer: Peer, address: str, message: Message, now: float) -> None:
        """Keep only one connection to a peer that is reachable at several addresses."""
        book = self.table.book
        book.settle(address)
        usable = peer.state == "alive" and peer.session == message.session and peer.lost_at is None
        if usable and peer.link not in ("", address):
            book.alias(address, peer.node_id, now)
        else:
            peer.link = address

    def _meet_myself(self, message: Message, address: str, now: float) -> None:
        self.table.book.settle(address)
        if message.session == self.me.session:
            self.table.book.alias(address, self.me.node_id, now)
        else:
            self._clash(self.me.node_id, address, now)

    def _clash(self, node_id: str, address: str, now: float) -> None:
        text = (
            f"two nodes are named {node_id}, one of them at {address}: give each its own --node-id"
        )
        self.table.complain("conflict", node_id, text, now)

    def _contacts(self) -> list[Contact]:
        """Return living peers; if not all fit, different ones each time."""
        alive = [peer for peer in self.table.living() if peer.is_alive]
        start = self._sequence * CONTACTS % len(alive) if len(alive) > CONTACTS else 0
        return [peer.contact() for peer in (alive[start:] + alive[:start])[:CONTACTS]]


def _succeeds(message: Message, peer: Peer) -> bool:
    """Return whether a node with a peer's name is that peer restarted, not a second node."""
    if not peer.is_living or peer.lost_at is not None:
        return True
    return message.incarnation > peer.incarnation


def _is_echo(peer: Peer, now: float) -> bool:
    return peer.lost_at is not None and now - peer.lost_at < _ECHO_SECONDS
