"""A mesh in memory: real memberships and seals on a network and a clock of the test.

It does what `node.mesh.mesh` and `node.mesh.transport` do with sockets: it dials, carries each
survey over each connection, and carries the answer back. Messages can be lost, late or doubled, and
the network can be cut.
"""

import functools
import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from hypothesis import strategies as st

from node.mesh.identity import Identity
from node.mesh.membership import Membership
from node.mesh.messages import Advert, Message
from node.mesh.peer import ROUND_SECONDS
from node.mesh.peer_table import Change, Trouble
from node.mesh.rounds import TICK_SECONDS
from node.mesh.seal import Opened, Seal
from shared.events.mesh import PeerState
from shared.events.node import NodeState

WALL: Final = 1.7e9
SECRET: Final = "a secret of the test's own mesh"
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=80)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=14) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=30,
)
"""More than any message holds."""
_SOONER_ROUNDS: Final = 0.2
_CONNECT_SECONDS: Final = 0.02
_LEAVE_SECONDS: Final = 1.1
"""A leaving process answers for this long: longer than it may, so that all nodes ask it."""


def advert(
    address: str = "10.0.0.1:7946", status: NodeState = "online", lag_seconds: float = 0.0
) -> Advert:
    """Return a small node's advert."""
    return Advert((address,), status, lag_seconds, b"what it offers")


@dataclass
class Node:
    """One run of a node on the network."""

    membership: Membership
    address: str
    seal: Seal
    nonce: bytes = b""
    surveyed_at: float = -1.0
    round_due: float = 0.0
    tick_due: float = 0.0
    dialed: dict[str, bool] = field(default_factory=dict)
    """The dialed addresses, and whether each is connected."""
    changes: list[tuple[float, Change]] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    leaving: bool = False
    running: bool = True
    """False while the process is stopped (SIGSTOP)."""
    backlog: list[Callable[[], None]] = field(default_factory=list)
    status: NodeState = "online"

    @property
    def node_id(self) -> str:
        return self.membership.me.node_id

    def states(self) -> dict[str, PeerState]:
        return {view.node_id: view.state for view in self.membership.table.views(0.0)}


class Network:
    """The nodes by address, and everything that is on its way.

    Args:
        seed: The seed of all randomness.
        loss: The share of lost messages.
        doubling: The share of messages that arrive twice.
        delay: The longest time of a message on its way, in seconds.
    """

    def __init__(
        self, seed: int = 1, *, loss: float = 0.0, doubling: float = 0.0, delay: float = 0.01
    ) -> None:
        self.now = 0.0
        self.nodes: dict[str, Node] = {}
        self.loss, self.doubling, self.delay = loss, doubling, delay
        self.cut: Callable[[str, str], bool] = lambda _from, _to: False
        """Return whether no message gets from one address to another."""
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._incarnation = itertools.count(1)

    def start(self, node_id: str, address: str, *seeds: str, limit: int = 64) -> Node:
        """Start a node in place of any node at its address."""
        identity = Identity(node_id, next(self._incarnation), self._random.getrandbits(63), "1")
        membership = Membership(identity, [address], limit)
        node = Node(membership, address, Seal([SECRET]))
        node.round_due = self.now + self._random.uniform(0, ROUND_SECONDS)
        node.tick_due = self.now + self._random.uniform(0, TICK_SECONDS)
        self.nodes[address] = node
        for seed in seeds:
            membership.table.book.resolved(seed, [seed])
        self._at(node.tick_due, lambda: self._tick(node))
        return node

    def kill(self, node: Node) -> None:
        """Kill a node: its connections break at once."""
        del self.nodes[node.address]
        node.running = False
        for other in self.nodes.values():
            if other.dialed.get(node.address):
                other.dialed[node.address] = False
                self._deliver(other, functools.partial(self._break, other, node.address))

    def _break(self, node: Node, address: str) -> None:
        node.membership.disconnected(address, self.now)

    def leave(self, node: Node) -> None:
        """Let a node leave."""
        node.nonce = self._nonce()
        message = node.membership.leave(advert(node.address), WALL + self.now, node.nonce)
        self._ask(node, message)
        node.leaving = True
        self._at(self.now + _LEAVE_SECONDS, lambda: self._end(node))

    def _end(self, node: Node) -> None:
        if self.nodes.get(node.address) is node:
            self.kill(node)

    def stop(self, node: Node) -> None:
        """Stop a node as SIGSTOP does: its messages wait."""
        node.running = False

    def resume(self, node: Node) -> None:
        """Resume a stopped node."""
        node.running = True
        self._tick(node)  # before it has read the waiting messages: the worst order
        backlog, node.backlog = node.backlog, []
        for call in backlog:
            call()

    def run(self, seconds: float) -> None:
        """Advance the time."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, call = heapq.heappop(self._events)
            call()
        self.now = end

    def _tick(self, node: Node) -> None:
        if not node.running or self.nodes.get(node.address) is not node:
            return
        node.membership.tick(self.now, max(0.0, self.now - node.tick_due))
        self._connect(node)
        wait = _SOONER_ROUNDS * node.membership.table.round_seconds
        sooner = node.membership.wants_survey and self.now - node.surveyed_at > wait
        if (self.now >= node.round_due or sooner) and not node.leaving:
            node.nonce, node.surveyed_at = self._nonce(), self.now
            node.round_due = self.now + node.membership.table.round_seconds
            own = advert(node.address, node.status, node.membership.lag_seconds)
            self._ask(node, node.membership.survey(own, self.now, WALL + self.now, node.nonce))
        for happened in node.membership.table.happened:
            if isinstance(happened, Trouble):
                node.troubles.append(happened)
            else:
                node.changes.append((self.now, happened))
        node.membership.table.happened = []
        node.tick_due = self.now + TICK_SECONDS
        self._at(node.tick_due, lambda: self._tick(node))

    def _connect(self, node: Node) -> None:
        wanted = node.membership.table.wanted()
        for address in node.dialed.keys() - wanted:
            del node.dialed[address]
        for address in sorted(wanted - node.dialed.keys()):
            node.dialed[address] = False
        for address in [a for a, up in node.dialed.items() if not up and a in self.nodes]:
            if not self.cut(node.address, address):
                node.dialed[address] = True
                self._at(
                    self.now + _CONNECT_SECONDS,
                    functools.partial(node.membership.connected, address),
                )

    def _ask(self, node: Node, message: Message) -> None:
        sealed = node.seal.sign(message)
        asked_at, nonce = self.now, node.nonce
        for address in [a for a, up in node.dialed.items() if up]:
            self._carry(
                node.address,
                address,
                functools.partial(self._answer, node, address, sealed, asked_at, nonce),
            )

    def _answer(
        self,
        asker: Node,
        address: str,
        sealed: bytes,
        asked_at: float,
        nonce: bytes,
        node: Node,
    ) -> None:
        opened = node.seal.open_survey(sealed, WALL + self.now)
        if not isinstance(opened, Opened):
            return
        own = advert(node.address, node.status, node.membership.lag_seconds)
        answer = node.membership.take_survey(
            opened.message, own, self.now, WALL + self.now, repeated=opened.repeated
        )
        reply = node.seal.sign(answer)

        def take(asker: Node) -> None:
            if nonce != asker.nonce:
                return  # nng drops answers to earlier surveys
            found = asker.seal.open_answer(reply, WALL + self.now, nonce)
            if isinstance(found, Opened):
                seconds = self.now - asked_at
                asker.membership.take_answer(found.message, address, self.now, seconds)

        self._carry(node.address, asker.address, take, asker)

    def _carry(
        self, origin: str, target: str, take: Callable[[Node], None], to: Node | None = None
    ) -> None:
        copies = 1 + (self._random.random() < self.doubling)
        for _ in range(copies):
            if self._random.random() < self.loss or self.cut(origin, target):
                continue

            def arrive() -> None:
                node = self.nodes.get(target)
                if node is not None and (to is None or node is to):
                    self._deliver(node, lambda: take(node))

            self._at(self.now + self._random.uniform(0.0005, self.delay), arrive)

    def _deliver(self, node: Node, call: Callable[[], None]) -> None:
        if node.running:
            call()
        else:
            node.backlog.append(call)

    def _nonce(self) -> bytes:
        return self._random.randbytes(12)

    def _at(self, when: float, call: Callable[[], Any]) -> None:
        heapq.heappush(self._events, (when, next(self._order), call))


def address_of(number: int) -> str:
    """Return the address of the node with a number."""
    return f"10.0.{number // 250}.{number % 250 + 1}:7946"
