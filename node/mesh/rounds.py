"""Runs a node's part in the mesh: surveys in rounds, answers, dials, and its own advert."""

import random
import secrets
import time
from collections.abc import Callable
from typing import Final

import trio

from node.mesh.addresses import is_loopback, own_addresses
from node.mesh.identity import next_identity
from node.mesh.membership import Membership
from node.mesh.messages import (
    ADDRESSES,
    NONCE_BYTES,
    NOT_AUTHENTIC,
    PAYLOAD_BYTES,
    Advert,
    Message,
)
from node.mesh.options import MeshOptions
from node.mesh.peer import ROUND_SECONDS
from node.mesh.reports import Reporter
from node.mesh.seal import Refused, Seal
from node.mesh.transport import Reply, Transport
from shared.events.event import Event
from shared.events.node import NodeState
from shared.runtime.beats import next_beat

TICK_SECONDS: Final = 0.1
_SOONER_ROUNDS: Final = 0.2
"""The time between two surveys when one is wanted at once."""
_CONNECT_SECONDS: Final = 0.5
"""The time between two checks of what to dial, if nothing has changed."""
_REDIAL_SECONDS: Final = 2.0
"""How often an address where nothing answers is dialed again."""
_ADVERT_SECONDS: Final = 0.1
"""An older advert is rebuilt."""
_REPORT_SECONDS: Final = 1.0
"""The time between two reports of the counts."""

Describe = Callable[[], tuple[NodeState, bytes]]
"""Returns the node's current status and the payload of its advert."""


class Rounds:
    """One node's part in the mesh.

    Args:
        options: How the node takes part.
        transport: Carries its messages.
        describe: Describes the node.
        emit: Receives events.
    """

    def __init__(
        self,
        options: MeshOptions,
        transport: Transport,
        describe: Describe,
        emit: Callable[[Event], None],
    ) -> None:
        self.transport: Final = transport
        self._addresses = (options.advertised or own_addresses(transport.address))[:ADDRESSES]
        identity = next_identity(options.node_id, options.state_dir, options.software)
        self.membership: Final = Membership(identity, self._addresses, options.peers_limit)
        self.reporter: Final = Reporter(self.membership.table, emit)
        self._traffic = self.reporter.traffic
        self._describe = describe
        self._seal = Seal(options.secrets)
        self._has_secret = bool(options.secrets)
        self._advert: Advert | None = None
        self._advert_at = 0.0
        self._nonce = b""
        self._surveyed_at = -ROUND_SECONDS
        self._asked: set[str] = set()
        self._answered: set[str] = set()
        self._all_answered = trio.Event()
        self._leaving = False
        transport.on_connect = self.membership.connected
        transport.on_disconnect = self._lose

    async def run(self) -> None:
        """Judge the peers ten times a second, and survey once in a round. Runs until cancelled."""
        due = next_beat(trio.current_time(), TICK_SECONDS)
        # Two nodes that started together must not keep asking at the same moments.
        round_due = due + random.uniform(0, ROUND_SECONDS)  # noqa: S311 - not for secrets
        report_due = connect_due = due
        table = self.membership.table
        while True:
            await trio.sleep_until(due)
            now = trio.current_time()
            self.membership.tick(now, now - due)
            if table.book.changed or now >= connect_due:
                self._connect()
                connect_due = now + _CONNECT_SECONDS
            sooner_seconds = _SOONER_ROUNDS * table.round_seconds
            is_wanted = self.membership.wants_survey and now - self._surveyed_at > sooner_seconds
            if (now >= round_due or is_wanted) and not self._leaving:
                self._survey(now)
                round_due = min(max(round_due, now - TICK_SECONDS), now) + table.round_seconds
            self.reporter.report_changes()
            if now >= report_due:
                self._report()
                report_due = now + _REPORT_SECONDS
            due = next_beat(trio.current_time(), TICK_SECONDS)

    async def leave(self) -> None:
        """Send a goodbye. Ends when all living peers have received it."""
        self._leaving = True
        now = trio.current_time()
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        message = self.membership.leave(self.advert(), time.time(), self._nonce)
        self._ask(message, now)
        if self._asked:
            await self._all_answered.wait()
        self.reporter.report_changes()
        self._report()

    def advert(self) -> Advert:
        """Return the node's own advert, at most a moment old."""
        now = trio.current_time()
        if self._advert is None or now - self._advert_at > _ADVERT_SECONDS:
            status, payload = self._describe()
            if len(payload) > PAYLOAD_BYTES:
                self.reporter.not_sent(len(payload), PAYLOAD_BYTES)
                payload = b""
            lag_seconds = self.membership.lag_seconds
            self._advert = Advert(self._addresses, status, lag_seconds, payload)
            self._advert_at = now
        return self._advert

    def note_failed_lookup(self) -> None:
        """Count a seed that resolves to no address."""
        self._traffic.fail("lookup")

    def take_survey(self, sealed: bytes, host: str) -> Reply:
        """Process a survey and return the answer.

        Args:
            sealed: The received bytes.
            host: The sender's IP address.
        """
        wall, now = time.time(), trio.current_time()
        opened = self._seal.open_survey(sealed, wall)
        if isinstance(opened, Refused):
            return self._refuse_survey(opened, host, wall, now)
        message = opened.message
        self._traffic.note(
            "received", "leave" if message.kind == "leave" else "survey", len(sealed)
        )
        answer = self.membership.take_survey(
            message, self.advert(), now, wall, repeated=opened.repeated
        )
        return Reply(self._sign(answer, 1), "repeated" if opened.repeated else "believed")

    def take_answer(self, sealed: bytes, address: str) -> None:
        """Process the reply to a survey.

        Args:
            sealed: The received bytes.
            address: The address that was asked.
        """
        now = trio.current_time()
        if sealed == NOT_AUTHENTIC:
            self._traffic.fail("unauthenticated")
            self.reporter.refused_by(address)
            return
        opened = self._seal.open_answer(sealed, time.time(), self._nonce)
        if isinstance(opened, Refused):
            self._note_refused(opened, address, time.time(), now)
            return
        message, seconds = opened.message, now - self._surveyed_at
        self._traffic.note("received", "answer", len(sealed))
        if self.membership.take_answer(message, address, now, seconds):
            self._answered.add(message.node_id)
            if self._asked <= self._answered:
                self._all_answered.set()
            self.reporter.answered(message.node_id, seconds)

    def _survey(self, now: float) -> None:
        if now - self._surveyed_at >= ROUND_SECONDS:
            self._traffic.fail("timeout", len(self._asked - self._answered))
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        message = self.membership.survey(self.advert(), now, time.time(), self._nonce)
        self._ask(message, now)

    def _refuse_survey(self, refused: Refused, host: str, wall: float, now: float) -> Reply:
        """Count a refused survey; answer the reason if the sender is a node."""
        self._note_refused(refused, host, wall, now)
        if refused.reason == "unauthenticated":
            return Reply(NOT_AUTHENTIC, "refused")
        if refused.head is None:
            return Reply(None, "refused")
        # The answer reveals this node's protocol and time to the other node.
        answer = self._sign(self.membership.reply(self.advert(), wall), 1)
        return Reply(answer, "believed" if refused.reason == "incompatible" else "refused")

    def _note_refused(self, refused: Refused, where: str, wall: float, now: float) -> None:
        self._traffic.fail(refused.reason)
        if refused.reason == "unauthenticated":
            self.reporter.other_secret(where)
        elif refused.reason == "incompatible" and refused.head is not None:
            self.membership.take_incompatible(refused.head, now)
        elif refused.head is not None:
            self.reporter.other_time(refused.head, where, wall)

    def _ask(self, message: Message, now: float) -> None:
        self._surveyed_at = now
        self._asked = {peer.node_id for peer in self.membership.table.living() if peer.is_alive}
        self._answered = set()
        self._all_answered = trio.Event()
        self.transport.send_survey(self._sign(message, self.transport.connections))

    def _sign(self, message: Message, copies: int) -> bytes:
        sealed = self._seal.sign(message)
        self._traffic.note("sent", message.kind, len(sealed), copies)
        return sealed

    def _connect(self) -> None:
        """Dial exactly the addresses that the membership wants."""
        table = self.membership.table
        wanted, dialed = table.wanted(), self.transport.dialed
        if not self._has_secret:  # nothing of an open mesh leaves this machine
            wanted = set(filter(is_loopback, wanted))
        silent = (dialed & wanted) - table.answering()
        # While a network is down, TCP retries less and less often; a new dial does not wait for
        # that.
        late = {a for a in silent if self.transport.seconds_dialed(a) > _REDIAL_SECONDS}
        for address in (dialed - wanted) | late:
            self.transport.hang_up(address)
        for address in (wanted - dialed) | late:
            try:
                self.transport.dial(address)
            except ValueError as error:
                self.reporter.not_dialed(error)

    def _lose(self, address: str) -> None:
        if address in self.transport.dialed:
            self._traffic.fail("connection")
        self.membership.disconnected(address, trio.current_time())

    def _report(self) -> None:
        self._traffic.fail("overflow", self.transport.take_excess())
        self.reporter.report()
