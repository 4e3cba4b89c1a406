"""The mesh as the rest of the node sees it, and the mesh's lifetime."""

import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from node.mesh import seeds
from node.mesh.messages import Advert
from node.mesh.options import MeshOptions
from node.mesh.peer import PeerView
from node.mesh.rounds import Describe, Rounds
from node.mesh.transport import Transport, open_transport
from shared.events.event import Event
from shared.events.mesh import PeerState
from shared.events.node import NodePart
from shared.runtime.guard import Guard

_LEAVE_SECONDS: Final = 0.5
_CONNECTIONS: Final = 2
"""Connections that a peer may have open to this node: one by each of two addresses, until the peer
finds out."""

_log = logging.getLogger(__name__)


class Mesh:
    """This node's knowledge of its peers; `open_mesh` makes the node take part.

    Args:
        describe: Describes the node.
        emit: Receives events.
    """

    def __init__(self, describe: Describe, emit: Callable[[Event], None]) -> None:
        self._describe = describe
        self._emit = emit
        self._rounds: Rounds | None = None

    @property
    def node_id(self) -> str:
        """The node's own name; empty before `open_mesh`."""
        return self._rounds.membership.me.node_id if self._rounds else ""

    @property
    def incarnation(self) -> int:
        """The number of this run of the node; 0 before `open_mesh`."""
        return self._rounds.membership.me.incarnation if self._rounds else 0

    @property
    def software(self) -> str:
        """The node's version; empty before `open_mesh`."""
        return self._rounds.membership.me.software if self._rounds else ""

    @property
    def address(self) -> str:
        """The address on which the node's mesh listens; empty before `open_mesh`."""
        return self._rounds.transport.address if self._rounds else ""

    def advert(self) -> Advert:
        """Return the node's own advert."""
        if self._rounds is not None:
            return self._rounds.advert()
        status, payload = self._describe()
        return Advert((), status, 0.0, payload)

    def peers(self) -> list[PeerView]:
        """Return all known peers by name."""
        return self._rounds.membership.table.views(trio.current_time()) if self._rounds else []

    def state_of(self, node_id: str) -> PeerState | None:
        """Return a peer's state; None for an unknown node."""
        peer = self._rounds.membership.table.find(node_id) if self._rounds else None
        return peer.state if peer else None

    def levels(self) -> Iterator[Event]:
        """Yield the current value of every level of the mesh."""
        if self._rounds:
            yield from self._rounds.reporter.levels(self.peers())

    def begin(self, options: MeshOptions, transport: Transport) -> Rounds:
        """Take part from now on."""
        self._rounds = Rounds(options, transport, self._describe, self._emit)
        return self._rounds


@asynccontextmanager
async def open_mesh(
    mesh: Mesh,
    options: MeshOptions,
    guard: Guard[NodePart],
    resolve: seeds.Resolve = seeds.resolve,
) -> AsyncIterator[None]:
    """Join the mesh while the block runs, and say goodbye at its end.

    Raises:
        StartupError: The mesh cannot listen.
    """
    connections = _CONNECTIONS * options.peers_limit
    with open_transport(options.host, options.port, options.tls, connections) as transport:
        transport.contain = functools.partial(guard.contain, "mesh_rounds")
        rounds = mesh.begin(options, transport)
        async with trio.open_nursery() as nursery:
            _start(nursery, guard, rounds)
            for seed in options.seeds:
                found, failed = rounds.membership.table.book.resolved, rounds.note_failed_lookup
                watching = functools.partial(seeds.watch_seed, seed, resolve, found, failed)
                nursery.start_soon(guard, "mesh_seeds", watching, name=f"mesh seed {seed}")
            _log.info("mesh on %s, incarnation %d", mesh.address, mesh.incarnation)
            try:
                yield
            finally:
                with (
                    guard.contain("mesh_rounds"),
                    trio.move_on_after(_LEAVE_SECONDS, shield=True),
                ):
                    await rounds.leave()
                nursery.cancel_scope.cancel()


def _start(nursery: trio.Nursery, guard: Guard[NodePart], rounds: Rounds) -> None:
    """Start the rounds and what receives the messages of others."""
    surveys = functools.partial(rounds.transport.receive_surveys, rounds.take_survey)
    answers = functools.partial(rounds.transport.receive_answers, rounds.take_answer)
    nursery.start_soon(guard, "mesh_rounds", rounds.run, name="mesh rounds")
    nursery.start_soon(guard, "mesh_surveys", surveys, name="mesh surveys")
    nursery.start_soon(guard, "mesh_answers", answers, name="mesh answers")
