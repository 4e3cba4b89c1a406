"""Who is in the mesh, as one node sees it: decides, and neither talks nor looks at a clock.

Each node asks all others once in a round. An answer carries its survey's nonce, so that it proves
its sender alive at this moment: only an answer makes a peer alive. A survey from a peer proves
less (it may be a copy, sent by somebody who held it back): it keeps a living peer alive and says
where an unknown one can be asked.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from node.mesh.address_book import AddressBook
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
from node.mesh.peer import NEWS_ROUNDS, ROUND_SECONDS, Peer, PeerView
from shared.events import NetworkFault, PeerState

_CONFLICT_SECONDS: Final = 60.0
_LAG_KEPT: Final = 0.95
"""Of a lag so much is still felt at the next tick: half of it after 1.4 s."""
_ECHO_SECONDS: Final = 0.3
"""A survey so soon after its sender's connection broke was on its way already."""
_AGAIN_SECONDS: Final = 0.4
"""While somebody is suspect all are asked so often: one lost message shall not be the end."""
_NEWS: Final = 16
_PEERS_PER_SECOND: Final = 32
"""With more peers than this a round is longer, so that its cost to a node stays the same."""


@dataclass(frozen=True)
class Identity:
    """Who this node is, in this run of it."""

    node_id: str
    incarnation: int
    session: int
    software: str


@dataclass(frozen=True)
class Change:
    """A peer's state or status is another one; `after` is None where it was forgotten."""

    node_id: str
    before: PeerState | None
    after: PeerState | None
    why: str = ""


@dataclass(frozen=True)
class Trouble:
    """Something that an operator should mend."""

    reason: NetworkFault
    text: str


class Membership:
    """The table of peers.

    Args:
        me: Who this node is.
        own_addresses: Where it listens itself.
        limit: Peers that the table holds, at most.
    """

    def __init__(self, me: Identity, own_addresses: Iterable[str], limit: int) -> None:
        self.me: Final = me
        self.wants_survey = True
        """Whether the next survey should not wait for its round."""
        self.lag_seconds = 0.0
        self.happened: list[Change | Trouble] = []
        """What the caller has to tell on and take away."""
        self.view = _mark(me.node_id, me.incarnation)
        self.round_seconds = ROUND_SECONDS
        """From one survey to the next."""
        self._limit = limit
        self._peers: dict[str, Peer] = {}
        self._book = AddressBook(own_addresses)
        self._troubled: dict[str, float] = {}
        self._sequence = 0
        self._surveyed_at = 0.0

    def tick(self, now: float, late_seconds: float) -> None:
        """Judge each peer by its silence.

        Args:
            now: The time on the caller's monotonic clock, seconds.
            late_seconds: How much later than asked this call comes. While this node did not run it
                could hear nobody, so that this time is no peer's silence.
        """
        self.lag_seconds = max(late_seconds, self.lag_seconds * _LAG_KEPT)
        for peer in list(self._peers.values()):
            peer.heard_at = min(now, peer.heard_at + late_seconds)
            if peer.lost_at is not None:
                peer.lost_at = min(now, peer.lost_at + late_seconds)
            state = peer.judge(now, self.lag_seconds)
            if state is None:
                self._forget(peer)
            elif state != peer.state:
                why = "connection lost" if peer.lost_at is not None else "silent"
                self._turn(peer, state, now, why)
            elif state == "suspect" and now - self._surveyed_at > _AGAIN_SECONDS:
                self.wants_survey = True
        self._book.expire(now)

    def survey(self, advert: Advert, now: float, sent_at: float, nonce: bytes) -> Message:
        """Write what to ask all peers."""
        self.wants_survey = False
        self._sequence += 1
        self._surveyed_at = now
        living = [peer for peer in self._peers.values() if peer.is_living]
        recent = NEWS_ROUNDS * self.round_seconds
        news = [peer.contact() for peer in living if now - peer.joined_at < recent]
        suspects = [peer.node_id for peer in living if peer.state == "suspect"]
        return self._write("survey", advert, sent_at, nonce, news[-_NEWS:], suspects[:SUSPECTS])

    def leave(self, advert: Advert, sent_at: float, nonce: bytes) -> Message:
        """Write the goodbye."""
        self._sequence += 1
        return self._write("leave", advert, sent_at, nonce)

    def take_survey(
        self, message: Message, advert: Advert, now: float, sent_at: float, *, repeated: bool
    ) -> Message:
        """Learn from a survey or a leave and write the answer."""
        if not repeated and message.node_id != self.me.node_id:
            self._learn(message, now)
        contacts = self._contacts() if message.view != self.view else []
        return self._write("answer", advert, sent_at, message.nonce, contacts)

    def reply(self, advert: Advert, sent_at: float) -> Message:
        """Write the answer to a survey that cannot be read, so that its sender knows why."""
        return self._write("answer", advert, sent_at, b"")

    def take_answer(self, message: Message, address: str, now: float, round_trip: float) -> bool:
        """Learn from an answer to the last survey; true where it came from a peer.

        Args:
            message: Authentic, with the last survey's nonce.
            address: Where it was asked.
            now: The time on the caller's monotonic clock, seconds.
            round_trip: Seconds since the survey.
        """
        if message.node_id == self.me.node_id:
            self._meet_myself(message, address, now)
            return False
        peer = self._peers.get(message.node_id)
        if peer is not None and peer.session != message.session and not _succeeds(message, peer):
            self._clash(peer.node_id, address, now)
            return False
        if peer is not None and peer.state == "left" and peer.session == message.session:
            return False  # it is on its way out
        if peer is None and (peer := self._enter(message.node_id, now)) is None:
            return False
        self._link(peer, address, message, now)
        peer.round_trip = round_trip
        self._hear(peer, message, now)
        for contact in message.contacts:
            self._hear_of(contact, now)
        return True

    def take_incompatible(self, head: Head, now: float) -> None:
        """List a node that speaks another version of the protocol."""
        peer = self._peers.get(head.node_id)
        if head.node_id == self.me.node_id or (peer is not None and peer.is_living):
            return
        if peer is None and (peer := self._enter(head.node_id, now)) is None:
            return
        peer.software, peer.heard_at, peer.advert = head.software, now, None
        self._turn(peer, "incompatible", now, f"it speaks protocol {head.protocol}")

    def connected(self, address: str) -> None:
        """Note that a dialed address answers calls: who is there is worth asking at once."""
        del address
        self.wants_survey = True

    def disconnected(self, address: str, now: float) -> None:
        """Note that the connection to an address broke."""
        for peer in self._peers.values():
            if peer.link == address and peer.is_living:
                peer.lost_at = now
                self._turn(peer, "suspect", now, "connection lost")

    def resolved(self, seed: str, addresses: Iterable[str]) -> None:
        """Note what a seed's name stands for now."""
        self._book.resolved(seed, addresses)

    @property
    def has_new_addresses(self) -> bool:
        """Whether `wanted` would give others than the last time."""
        return self._book.changed

    def wanted(self) -> set[str]:
        """Give the addresses that should be dialed."""
        peers = self._peers.values()
        return self._book.wanted(address for peer in peers for address in peer.addresses())

    def answering(self) -> set[str]:
        """Give the addresses at which somebody has lately answered."""
        return {peer.link for peer in self._peers.values() if peer.is_living}

    def peers(self, now: float) -> list[PeerView]:
        """Copy the table, to look at."""
        return [self._peers[node_id].view(now) for node_id in sorted(self._peers)]

    def alive(self) -> set[str]:
        """Name the peers that are alive."""
        return {node_id for node_id, peer in self._peers.items() if peer.state == "alive"}

    def state_of(self, node_id: str) -> Peer | None:
        """Give what is held of a peer now."""
        return self._peers.get(node_id)

    def count(self, state: PeerState) -> int:
        """Count the peers in a state."""
        return sum(peer.state == state for peer in self._peers.values())

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
            self.view,
            advert,
            tuple(contacts),
            tuple(suspects),
        )

    def _learn(self, message: Message, now: float) -> None:
        peer = self._peers.get(message.node_id)
        if peer is not None and peer.session == message.session:
            if message.kind == "leave":
                self._turn(peer, "left", now, "it said goodbye")
            elif peer.is_living and not _is_echo(peer, now):
                self._hear(peer, message, now)
        elif message.kind == "survey":  # a new node, a new run of one, or a second of its name
            self._book.hint(message.advert.addresses, now)
        if self.me.node_id in message.suspects:
            self.wants_survey = True
        for contact in message.contacts:
            self._hear_of(contact, now)

    def _hear_of(self, contact: Contact, now: float) -> None:
        """Take a hint: it makes nobody alive, but shows where to ask."""
        peer = self._peers.get(contact.node_id)
        if contact.node_id == self.me.node_id:
            news = contact.incarnation != self.me.incarnation
        elif peer is None or contact.incarnation > peer.incarnation:
            news = True
        else:
            news = not peer.is_living and contact.incarnation == peer.incarnation
        if news:
            self._book.hint(contact.addresses, now)

    def _hear(self, peer: Peer, message: Message, now: float) -> None:
        """Note that a peer lives and what it says."""
        restarted = peer.known and peer.session != message.session
        status = peer.status
        peer.incarnation, peer.session = message.incarnation, message.session
        peer.software, peer.advert = message.software, message.advert
        peer.heard_at, peer.lost_at = now, None
        peer.round_seconds = self.round_seconds
        if restarted or not peer.known:
            peer.joined_at = now
        if peer.state != "alive" or peer.joined_at == now:
            self._turn(peer, "alive", now, "it restarted" if restarted else "")
        elif status != peer.status:
            self.happened.append(Change(peer.node_id, "alive", "alive"))

    def _link(self, peer: Peer, address: str, message: Message, now: float) -> None:
        """Keep one connection to a peer, however many addresses lead to it."""
        self._book.settle(address)
        usable = peer.state == "alive" and peer.session == message.session and peer.lost_at is None
        if usable and peer.link not in ("", address):
            self._book.alias(address, peer.node_id, now)
        else:
            peer.link = address

    def _meet_myself(self, message: Message, address: str, now: float) -> None:
        self._book.settle(address)
        if message.session == self.me.session:
            self._book.alias(address, self.me.node_id, now)
        else:
            self._clash(self.me.node_id, address, now)

    def _clash(self, node_id: str, address: str, now: float) -> None:
        text = (
            f"two nodes are named {node_id}, one of them at {address}: give each its own --node-id"
        )
        self._complain("conflict", node_id, text, now)

    def _complain(self, reason: NetworkFault, about: str, text: str, now: float) -> None:
        """Tell of a trouble, once a minute as long as it lasts."""
        self._troubled = {a: at for a, at in self._troubled.items() if now - at < _CONFLICT_SECONDS}
        if about not in self._troubled and len(self._troubled) < self._limit:
            self._troubled[about] = now
            self.happened.append(Trouble(reason, text))

    def _enter(self, node_id: str, now: float) -> Peer | None:
        """Make room for a new peer, in the place of one that has gone where the table is full."""
        if len(self._peers) >= self._limit:
            gone = [peer for peer in self._peers.values() if not peer.is_living]
            if not gone:
                text = f"{self._limit} peers are known: a mesh holds no more nodes than that"
                self._complain("overflow", "", text, now)
                return None
            self._forget(min(gone, key=lambda peer: peer.since))
        peer = Peer(node_id, "dead", now, now)  # until the caller says what it is
        self._peers[node_id] = peer
        return peer

    def _turn(self, peer: Peer, state: PeerState, now: float, why: str) -> None:
        before = peer.state if peer.known else None
        if before == state and peer.joined_at != now:
            return
        peer.known, peer.state, peer.since = True, state, now
        if state == "suspect":
            self.wants_survey = True
        if not peer.is_living:
            self._book.drop_aliases(peer.node_id)
        self._book.changed = True
        self._look()
        self.happened.append(Change(peer.node_id, before, state, why))

    def _forget(self, peer: Peer) -> None:
        del self._peers[peer.node_id]
        self._book.drop_aliases(peer.node_id)
        self._look()
        self.happened.append(Change(peer.node_id, peer.state, None))

    def _look(self) -> None:
        living = [peer for peer in self._peers.values() if peer.is_living]
        # The dead count: they may be back, and where it is load that makes peers seem dead, more
        # messages would be more of it.
        asked = sum(peer.state not in ("left", "incompatible") for peer in self._peers.values())
        self.round_seconds = max(ROUND_SECONDS, asked / _PEERS_PER_SECOND)
        self.view = _mark(self.me.node_id, self.me.incarnation)
        for peer in living:
            self.view ^= _mark(peer.node_id, peer.incarnation)

    def _contacts(self) -> list[Contact]:
        """Name living peers; where there are more than fit, others each time."""
        living = [peer for peer in self._peers.values() if peer.state == "alive"]
        start = self._sequence * CONTACTS % len(living) if len(living) > CONTACTS else 0
        return [peer.contact() for peer in (living[start:] + living[:start])[:CONTACTS]]


def _succeeds(message: Message, peer: Peer) -> bool:
    """Whether a node of a peer's name is that peer after a restart, not a second one beside it."""
    if not peer.is_living or peer.lost_at is not None:
        return True
    return message.incarnation > peer.incarnation


def _is_echo(peer: Peer, now: float) -> bool:
    return peer.lost_at is not None and now - peer.lost_at < _ECHO_SECONDS


def _mark(node_id: str, incarnation: int) -> int:
    """Give 63 bits that stand for one run of a node."""
    text = f"{node_id}\0{incarnation}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
