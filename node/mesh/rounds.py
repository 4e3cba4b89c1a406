"""One node's part in the mesh, running: its rounds, what it answers, and what it tells of it."""

import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import trio

from node.engine.shape import even_shape
from node.mesh.addresses import is_loopback, own_addresses
from node.mesh.identity import next_identity
from node.mesh.membership import Change, Membership, Trouble
from node.mesh.messages import ADDRESSES, NONCE_BYTES, Advert, Message, ModelAdvert
from node.mesh.peer import ROUND_SECONDS
from node.mesh.seal import Refused, Seal
from node.mesh.traffic import Traffic
from node.mesh.transport import Tls, Transport
from node.routing.plan import candidate, make_plan
from shared import events
from shared.events import Event

TICK_SECONDS: Final = 0.1
_SOONER_ROUNDS: Final = 0.2
"""Between two surveys when one is wanted at once."""
_CONNECT_SECONDS: Final = 0.5
"""Between two looks at who should be dialed, where nothing has changed."""
_REDIAL_SECONDS: Final = 2.0
"""An address where nobody answers is called anew so often."""
_ADVERT_SECONDS: Final = 0.1
"""An advert so old is written anew."""
_REPORT_SECONDS: Final = 1.0
"""Between two reports of what was counted."""

_LINES: Final[dict[events.PeerState, tuple[int, str]]] = {
    "suspect": (logging.WARNING, "is suspect"),
    "dead": (logging.WARNING, "is dead"),
    "left": (logging.INFO, "left"),
    "incompatible": (logging.WARNING, "is incompatible"),
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """How a node takes part."""

    node_id: str
    software: str
    state_dir: Path
    host: str
    """Address to listen on."""
    port: int
    advertised: tuple[str, ...] = ()
    """Where peers reach it, if not where it listens."""
    seeds: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    tls: Tls | None = None
    peers_limit: int = 256
    """Peers to remember: each costs traffic in every round, and a mesh is a few dozen nodes."""
    replicas: int = 2


class Member:
    """A node's running part in the mesh.

    Args:
        options: How it takes part.
        transport: Carries what it says.
        describe: Gives the node's advert as it is now.
        emit: Takes events.
    """

    def __init__(
        self,
        options: MeshOptions,
        transport: Transport,
        describe: Callable[[], Advert],
        emit: Callable[[Event], None],
    ) -> None:
        self.transport: Final = transport
        addresses = (options.advertised or own_addresses(transport.address))[:ADDRESSES]
        identity = next_identity(options.node_id, options.state_dir, options.software)
        self.membership: Final = Membership(identity, addresses, options.peers_limit)
        self._addresses = addresses
        self._describe = describe
        self._emit = emit
        self._seal = Seal(options.secrets)
        self._has_secret = bool(options.secrets)
        self._replicas = options.replicas
        self._advert: Advert | None = None
        self._advert_at = 0.0
        self._nonce = b""
        self._surveyed_at = -ROUND_SECONDS
        self._asked: set[str] = set()
        self._answered: set[str] = set()
        self._all_answered = trio.Event()
        self._traffic = Traffic()
        self._leaving = False
        transport.on_connect = self.membership.connected
        transport.on_disconnect = self._lose

    async def run(self) -> None:
        """Judge ten times a second, survey once in a round. Runs until cancelled."""
        # Two nodes that started together shall not ask at the same moments for ever.
        due = trio.current_time() + random.uniform(0, TICK_SECONDS)  # noqa: S311 - no secret
        round_due = due + random.uniform(0, ROUND_SECONDS)  # noqa: S311
        report_due = connect_due = due
        while True:
            await trio.sleep_until(due)
            now = trio.current_time()
            self.membership.tick(now, now - due)
            if self.membership.has_new_addresses or now >= connect_due:
                self._connect()
                connect_due = now + _CONNECT_SECONDS
            round_seconds = self.membership.round_seconds
            wait = _SOONER_ROUNDS * round_seconds
            sooner = self.membership.wants_survey and now - self._surveyed_at > wait
            if (now >= round_due or sooner) and not self._leaving:
                self._survey(now)
                round_due = min(max(round_due, now - TICK_SECONDS), now) + round_seconds
            self._tell()
            if now >= report_due:
                self._report()
                report_due = now + _REPORT_SECONDS
            due = now + TICK_SECONDS

    async def leave(self) -> None:
        """Say goodbye. Ends when everybody who is alive has heard it."""
        self._leaving = True
        now = trio.current_time()
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        message = self.membership.leave(self.advert(), time.time(), self._nonce)
        self._ask(message, now)
        if self._asked:
            await self._all_answered.wait()
        self._tell()
        self._report()

    def advert(self) -> Advert:
        """Give what the node says of itself, at most a moment old."""
        now = trio.current_time()
        if self._advert is None or now - self._advert_at > _ADVERT_SECONDS:
            self._advert = msgspec.structs.replace(
                self._describe(),
                addresses=self._addresses,
                lag_seconds=self.membership.lag_seconds,
            )
            self._advert_at = now
        return self._advert

    def levels(self) -> Iterator[Event]:
        """Give every level."""
        for peer in self.membership.peers(trio.current_time()):
            status = peer.advert.status if peer.advert else "unknown"
            yield events.PeerChanged(peer.node_id, peer.state, status)
        yield self._count()
        own = self.advert()
        for model in own.models:
            if model.layers:
                yield self._plan(model, own)

    def note_failed_lookup(self) -> None:
        """Count a seed whose name stands for nothing."""
        self._traffic.fail("lookup")

    def take_survey(self, sealed: bytes) -> bytes | None:
        """Give the answer to a survey; none to what cannot be believed."""
        wall, now = time.time(), trio.current_time()
        opened = self._seal.open_survey(sealed, wall)
        if isinstance(opened, Refused):
            return self._refuse(opened, now)
        message = opened.message
        self._traffic.note(
            "received", "leave" if message.kind == "leave" else "survey", len(sealed)
        )
        answer = self.membership.take_survey(
            message, self.advert(), now, wall, repeated=opened.repeated
        )
        return self._sign(answer, 1)

    def take_answer(self, sealed: bytes, address: str) -> None:
        """Learn from what came in the place of an answer."""
        now = trio.current_time()
        opened = self._seal.open_answer(sealed, time.time(), self._nonce)
        if isinstance(opened, Refused):
            self._refuse(opened, now)
            return
        message, seconds = opened.message, now - self._surveyed_at
        self._traffic.note("received", "answer", len(sealed))
        if self.membership.take_answer(message, address, now, seconds):
            self._answered.add(message.node_id)
            if self._asked <= self._answered:
                self._all_answered.set()
            self._emit(events.PeerAnswered(message.node_id, "survey", seconds))

    def _survey(self, now: float) -> None:
        if now - self._surveyed_at >= ROUND_SECONDS:
            self._traffic.fail("timeout", len(self._asked - self._answered))
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._ask(self.membership.survey(self.advert(), now, time.time(), self._nonce), now)

    def _ask(self, message: Message, now: float) -> None:
        self._surveyed_at = now
        self._asked = self.membership.alive()
        self._answered = set()
        self._all_answered = trio.Event()
        self.transport.send_survey(self._sign(message, self.transport.connections))

    def _sign(self, message: Message, copies: int) -> bytes:
        sealed = self._seal.sign(message)
        self._traffic.note("sent", message.kind, len(sealed), copies)
        return sealed

    def _refuse(self, refused: Refused, now: float) -> bytes | None:
        """Count a message that is not believed; an honest one of another protocol is answered."""
        self._traffic.fail(refused.reason)
        if refused.head is None:
            return None
        self.membership.take_incompatible(refused.head, now)
        answer = self.membership.reply(self.advert(), time.time())
        return self._sign(answer, 1)

    def _connect(self) -> None:
        """Dial whom the membership wants dialed, and nobody else."""
        wanted, dialed = self.membership.wanted(), self.transport.dialed
        if not self._has_secret:  # nothing of an unguarded mesh leaves this machine
            wanted = set(filter(is_loopback, wanted))
        silent = (dialed & wanted) - self.membership.answering()
        # After a network was gone for a while TCP tries again ever more rarely; a new call does not
        # wait for that.
        late = {a for a in silent if self.transport.seconds_dialed(a) > _REDIAL_SECONDS}
        for address in (dialed - wanted) | late:
            self.transport.hang_up(address)
        for address in (wanted - dialed) | late:
            try:
                self.transport.dial(address)
            except ValueError as error:
                self._traffic.fail("connection")
                _log.debug("%s", error)

    def _lose(self, address: str) -> None:
        if address in self.transport.dialed:
            self._traffic.fail("connection")
        self.membership.disconnected(address, trio.current_time())

    def _tell(self) -> None:
        """Emit and log what happened to the table."""
        happened, self.membership.happened = self.membership.happened, []
        for each in happened:
            if isinstance(each, Trouble):
                self._traffic.fail(each.reason)
                _log.error(each.text)
            elif each.after is None:
                self._emit(events.PeerForgotten(each.node_id))
                _log.info("peer %s is forgotten", each.node_id)
            else:
                self._tell_change(each)

    def _tell_change(self, change: Change) -> None:
        peer = self.membership.state_of(change.node_id)
        if peer is None or change.after is None:
            return  # forgotten since
        self._emit(events.PeerChanged(change.node_id, change.after, peer.status))
        if (line := _line(change)) is not None:
            level, words = line
            why = f" ({change.why})" if change.why else ""
            _log.log(level, "peer %s at %s %s%s", peer.node_id, peer.link or "?", words, why)

    def _report(self) -> None:
        """Emit what was counted since the last time."""
        for event in self._traffic.report():
            self._emit(event)
        self._emit(self._count())

    def _plan(self, model: ModelAdvert, own: Advert) -> events.LayersPlanned:
        peers = self.membership.peers(trio.current_time())
        adverts = {peer.node_id: peer.advert for peer in peers if peer.state == "alive"}
        adverts[self.membership.me.node_id] = own
        shape = even_shape(
            model.size_bytes, model.layers, model.position_bytes, model.context_length
        )
        candidates = [
            candidate(node_id, advert, model.model_id)
            for node_id, advert in adverts.items()
            if advert is not None
        ]
        plan = make_plan(shape, candidates, self._replicas)
        return events.LayersPlanned(model.model_id, plan.layers, plan.unserved)

    def _count(self) -> events.PeersCounted:
        membership = self.membership
        return events.PeersCounted(membership.count("alive"), membership.count("suspect"))


def _line(change: Change) -> tuple[int, str] | None:
    """Say in a log what happened to a peer; nothing where only its status is another one."""
    if change.after == "alive":
        words = "is here" if change.before == "alive" else "is back"
        if change.before == "alive" and not change.why:
            return None
        return logging.INFO, words if change.before else "joined"
    return _LINES[change.after or "dead"]
