"""Runs models that fit on no single node: splits them over nodes, and again when one is lost."""

import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

import trio

from node.engine.link import Link
from node.engine.llama_cpp.options import LlamaOptions
from node.engine.place import Place
from node.engine.protocol import Described
from node.errors import HeldElsewhereError, InsufficientMemoryError, UnavailableError
from node.mesh.mesh import Mesh
from node.pipeline.pipeline import Pipeline, open_pipeline
from node.pipeline.placing import Rival, explain, find_server, place_of, plan_around
from node.pipeline.tunnel import Claim, OpenTunnel
from node.requests.request import is_other_model
from node.routing.holders import Holder, Member, read_holders
from node.routing.peer_offers import KnownPeer, PeerOffers, reachable_url
from node.routing.plan import Plan, can_be_planned
from shared.events.event import Event
from shared.events.pipelines import PipelineRebuilt

_AVOIDED_SECONDS: Final = 30.0
"""How long a node whose worker was lost or refused is used only if the model does not fit without
it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Avoided:
    until: float
    why: str


class Coordinator:
    """Places models over several nodes, and opens their pipelines.

    Args:
        mesh: Knows this node.
        offers: Knows what this node and its peers offer.
        room_bytes: Returns the memory that this node has for one more model.
        open_tunnel: Opens a tunnel to a peer's worker.
        emit: Receives events.
    """

    def __init__(
        self,
        mesh: Mesh,
        offers: PeerOffers,
        room_bytes: Callable[[], int],
        open_tunnel: OpenTunnel,
        emit: Callable[[Event], None],
    ) -> None:
        self.running: Final[dict[str, Pipeline]] = {}
        """The pipelines by model, also those that are being opened."""
        self._mesh = mesh
        self._offers = offers
        self._room_bytes = room_bytes
        self._open_tunnel = open_tunnel
        self._emit = emit
        self._avoided: dict[str, _Avoided] = {}

    @property
    def build(self) -> str:
        """This node's build of llama.cpp with RPC; empty if it takes no part in splits."""
        own = self._offers.own()
        return own.rpc_build if own else ""

    def place(self, described: Described, model_id: str, shortage: str) -> Place:
        """Return the stages of a model that does not fit on this node.

        Args:
            described: The model.
            model_id: Its name.
            shortage: Why it does not fit here.

        Raises:
            HeldElsewhereError: Another node serves it, or is to serve it.
            InsufficientMemoryError: All nodes together cannot hold it; the text says why.
        """
        shape = described.shape
        if not can_be_planned(len(shape.layer_bytes)):
            raise InsufficientMemoryError(shortage)
        holders = self._holders(model_id)
        rivals = self._rivals(model_id, described.fingerprint)
        if server := find_server(self._mesh.node_id, shape, holders, rivals):
            raise HeldElsewhereError(f"{shortage}; {server} serves it", retry_after_seconds=1)
        if not self.build:
            raise InsufficientMemoryError(shortage)
        if described.engine != "llama.cpp":
            raise InsufficientMemoryError(
                f"{shortage}; to split it over nodes, set engine=llama.cpp"
            )
        plan = self._plan(described, holders)
        if plan.unserved:
            raise InsufficientMemoryError(explain(plan, shortage))
        return place_of(plan, shape)

    @asynccontextmanager
    async def open(self, model_id: str, place: Place, llama: LlamaOptions) -> AsyncIterator[Link]:
        """Yield the engine of a split model.

        Raises:
            UnavailableError: A node does not lend its worker, or cannot be reached.
            OSError: No process can be started here.
        """
        pipeline = Pipeline(model_id, place)
        self.running[model_id] = pipeline
        _log.info("model %s is split: %s", model_id, _show(place))
        try:
            claims = self._claims(model_id, place)
            async with open_pipeline(pipeline, claims, self._open_tunnel, llama) as link:
                yield link
            self._emit(PipelineRebuilt(model_id, pipeline.lost or "engine"))
        except* UnavailableError:
            self._emit(PipelineRebuilt(model_id, pipeline.lost or "engine"))
            raise
        finally:
            del self.running[model_id]
            self._avoided |= {
                node_id: _Avoided(trio.current_time() + _AVOIDED_SECONDS, why)
                for node_id, why in pipeline.faults.items()
            }

    def _plan(self, described: Described, holders: list[Holder]) -> Plan:
        """Return the plan with this node as the coordinator."""
        now, node_id, shape = trio.current_time(), self._mesh.node_id, described.shape
        self._avoided = {name: it for name, it in self._avoided.items() if it.until > now}
        room = self._room_bytes()
        nodes = [replace(h, free_bytes=room) if h.node_id == node_id else h for h in holders]
        avoided = sorted(self._avoided.items(), key=lambda item: item[1].until)
        return plan_around(shape, nodes, node_id, {name: it.why for name, it in avoided})

    def _holders(self, model_id: str) -> list[Holder]:
        own = Member(self._mesh.node_id, self._offers.own(), self._mesh.advert().status)
        return read_holders([own, *map(_member, self._offers.known())], model_id)

    def _rivals(self, model_id: str, fingerprint: str) -> Iterator[Rival]:
        for peer in self._offers.known():
            stages = peer.offer.stages if peer.offer else ()
            coordinates = any(stage.model_id == model_id for stage in stages)
            for model in peer.models if peer.can_be_asked else ():
                is_same = not is_other_model(fingerprint, model.fingerprint)
                if model.model_id == model_id and is_same:
                    yield Rival(peer.view.node_id, model, coordinates)

    def _claims(self, model_id: str, place: Place) -> dict[str, tuple[str, Claim]]:
        """Return for each worker the URL of its node and what to claim there."""
        peers = {peer.view.node_id: peer for peer in self._offers.known()}
        pipeline_id = secrets.token_hex(8)
        return {
            stage.node_id: (
                _url(peers.get(stage.node_id)),
                Claim(
                    node_id=stage.node_id,
                    pipeline_id=pipeline_id,
                    model_id=model_id,
                    memory_bytes=stage.memory_bytes,
                    build=self.build,
                ),
            )
            for stage in place.stages[1:]
        }


def _member(peer: KnownPeer) -> Member:
    state = peer.view.state
    barred = "" if state == "alive" else f"it is {state}"
    return Member(peer.view.node_id, peer.offer, peer.status, barred)


def _url(peer: KnownPeer | None) -> str:
    return reachable_url(peer.api_url, peer.view.address) if peer else ""


def _show(place: Place) -> str:
    """Return the stages in words, for the log."""
    return ", ".join(
        f"layers {stage.first}-{stage.end - 1} on {stage.node_id}"
        if stage.layers
        else f"no layers on {stage.node_id}"
        for stage in place.stages
    )
