"""What the rest of the node sees of the mesh."""

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from node.mesh import seeds
from node.mesh.messages import (
    Advert,
)
from node.mesh.peer import PeerView
from node.mesh.rounds import Member, MeshOptions
from node.mesh.transport import Transport, open_transport
from shared.events import Event

_LEAVE_SECONDS: Final = 0.5

_log = logging.getLogger(__name__)


class Mesh:
    """What the node knows of its peers; `open_mesh` sets it going.

    Args:
        describe: Gives the node's advert as it is now; addresses and lag are filled in here.
        emit: Takes events.
    """

    def __init__(self, describe: Callable[[], Advert], emit: Callable[[Event], None]) -> None:
        self._describe = describe
        self._emit = emit
        self._member: Member | None = None

    @property
    def node_id(self) -> str:
        """The node's own name; empty before `open_mesh`."""
        return self._member.membership.me.node_id if self._member else ""

    @property
    def incarnation(self) -> int:
        """The number of this run of the node; 0 before `open_mesh`."""
        return self._member.membership.me.incarnation if self._member else 0

    @property
    def address(self) -> str:
        """Where the node's mesh listens; empty before `open_mesh`."""
        return self._member.transport.address if self._member else ""

    def advert(self) -> Advert:
        """Give what the node says of itself."""
        return self._member.advert() if self._member else self._describe()

    def peers(self) -> list[PeerView]:
        """Give all peers that are remembered, by name."""
        return self._member.membership.peers(trio.current_time()) if self._member else []

    def living(self) -> list[PeerView]:
        """Give the peers that a request can be sent to: alive, with an advert, not leaving."""
        return [
            peer
            for peer in self.peers()
            if peer.state == "alive"
            and peer.advert is not None
            and peer.advert.status in ("online", "busy")
        ]

    def levels(self) -> Iterator[Event]:
        """Give every level of the mesh as it is now."""
        if self._member:
            yield from self._member.levels()

    def begin(self, options: MeshOptions, transport: Transport) -> "Member":
        """Take part from now on."""
        self._member = Member(options, transport, self._describe, self._emit)
        return self._member


@asynccontextmanager
async def open_mesh(
    mesh: Mesh, options: MeshOptions, resolve: seeds.Resolve = seeds.resolve
) -> AsyncIterator[None]:
    """Take part in the mesh for as long as the block runs; at its end say goodbye.

    Raises:
        StartupError: The mesh cannot listen.
    """
    with open_transport(options.host, options.port, options.tls) as transport:
        member = mesh.begin(options, transport)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member.run, name="mesh rounds")
            nursery.start_soon(transport.receive_surveys, member.take_survey, name="mesh surveys")
            nursery.start_soon(transport.receive_answers, member.take_answer, name="mesh answers")
            nursery.start_soon(
                seeds.watch_seeds,
                options.seeds,
                resolve,
                member.membership.resolved,
                member.note_failed_lookup,
                name="mesh seeds",
            )
            _log.info("mesh on %s, incarnation %d", mesh.address, member.membership.me.incarnation)
            try:
                yield
            finally:
                with trio.move_on_after(_LEAVE_SECONDS, shield=True):
                    await member.leave()
                nursery.cancel_scope.cancel()
