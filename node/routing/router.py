"""Has each request answered by the node that its caller waits for least, and by another if it dies.

A request that this node answers goes to its scheduler. Any other is followed here frame by frame:
when its peer is lost, the next node is given the tokens that have come and goes on from there.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from node.errors import RequestError, UnavailableError
from node.requests.generation import Emit, Generation, InferenceRequest, is_other_model
from node.routing import wire
from node.routing.choice import HERE, Candidate, choose
from node.routing.client import PeerClient, PeerLostError, PeerRefusedError
from node.serving.lane import ANY_CONTEXT
from node.serving.scheduler import Scheduler
from shared import events
from shared.groups import leaves

_LOOK_SECONDS: Final = 0.25
"""How often a running answer's peer is looked for among the living."""
_TOLD: Final = 1000
_ELSEWHERE: Final = (429, 503)
"""Statuses by which a node says that another one may take the request."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PeerModel:
    """A model that a peer has, as the peer's last advert says."""

    node_id: str
    model_id: str
    url: str
    """Of the peer's API."""
    loaded: bool
    in_flight: int
    slots: int
    fingerprint: str = ""
    """Of its file; empty while it is not known."""


class Peers(Protocol):
    """Who knows the other nodes."""

    def find(self, model_id: str) -> Sequence[PeerModel]:
        """Give the peers that have a model and take requests."""

    def models(self) -> set[str]:
        """Name the models that peers have."""

    def is_living(self, node_id: str) -> bool:
        """Whether a peer is still held to be there."""


class NoPeers(Peers):
    """A node that answers alone."""

    def find(self, model_id: str) -> Sequence[PeerModel]:
        """Find nobody."""
        del model_id
        return ()

    def models(self) -> set[str]:
        """Name nothing."""
        return set()

    def is_living(self, node_id: str) -> bool:
        """Nobody is."""
        del node_id
        return False


class Router:
    """Admits requests as the scheduler does, for the whole mesh.

    Args:
        scheduler: Answers what is answered here.
        peers: Knows who else could.
        client: Asks them.
        emit: Takes events.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        peers: Peers,
        client: PeerClient,
        emit: Emit,
    ) -> None:
        self._scheduler = scheduler
        self._peers = peers
        self._client = client
        self._emit = emit
        self._nursery: trio.Nursery | None = None
        self._away: Counter[str] = Counter()
        """Requests that each peer answers for this node now."""
        self._following: set[Generation] = set()
        self._moved = trio.Event()
        self._told: set[tuple[str, str]] = set()
        """Peers whose model of a name was said to be another one."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow what peers answer. Runs until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            with trio.move_on_after(1, shield=True):
                await self._client.close()

    def admit(self, request: InferenceRequest) -> Generation:
        """Take a request in; raises as `Scheduler.admit` does."""
        chosen = choose(self._candidates(request.model_id))
        if chosen is None or chosen.node_id == HERE or request.forwarded or self._nursery is None:
            return self._scheduler.admit(request)
        # It is in the account of the node that answers it, not in this one's.
        generation = Generation(self._scheduler.bound(request), _ignore, ANY_CONTEXT)
        self._nursery.start_soon(self._drive, generation, name=f"request {request.request_id}")
        return generation

    def models(self) -> list[str]:
        """Name the models that a request can be for: this node's, then its peers'."""
        own = [lane.engine.model_id for lane in self._scheduler.lanes]
        return [*own, *sorted(self._peers.models().difference(own))]

    async def drain(self, grace_seconds: float) -> None:
        """Take no more requests and wait for all that are in work, for as long as the grace."""
        with trio.move_on_after(grace_seconds):
            await self._scheduler.drain(grace_seconds)
            while self._following:
                await self._moved.wait()

    def end(self) -> None:
        """End whatever is left with an error that its caller sees."""
        self._scheduler.end()
        error = UnavailableError("the node stopped before the answer was complete", code="stopped")
        for generation in tuple(self._following):
            generation.failed(error)

    def _candidates(self, model_id: str, fingerprint: str = "") -> Iterator[Candidate]:
        """Give who could answer, or go on where a model with this fingerprint has begun."""
        open_lanes = (lane for lane in self._scheduler.lanes if not lane.closed)
        lane = next((lane for lane in open_lanes if lane.engine.model_id == model_id), None)
        own = lane.engine.fingerprint if lane else ""
        if lane is not None and not is_other_model(fingerprint, own):
            load = lane.load()
            yield Candidate(
                HERE, lane.engine.ready, load.in_flight, load.slots_total, full=lane.is_full
            )
        for peer in self._peers.find(model_id):
            if is_other_model(fingerprint or own, peer.fingerprint):
                self._tell_other(peer)
                continue
            # What this node sent since the advert is not in it yet.
            in_flight = max(peer.in_flight, self._away[peer.node_id])
            yield Candidate(peer.node_id, peer.loaded, in_flight, peer.slots)

    def _tell_other(self, peer: PeerModel) -> None:
        """Say once that a peer has another model under a name."""
        if (peer.node_id, peer.fingerprint) in self._told:
            return
        if len(self._told) >= _TOLD:
            self._told.clear()
        self._told.add((peer.node_id, peer.fingerprint))
        _log.warning(
            "what is %s on %s has other weights than elsewhere: it does not answer in another "
            "node's place; give one of the models another name",
            peer.model_id,
            peer.node_id,
        )

    async def _drive(self, generation: Generation) -> None:
        """See a request to its end, by one node after another if they are lost."""
        self._following.add(generation)
        try:
            await self._try_in_turn(generation)
        finally:
            self._following.discard(generation)
            self._moved.set()
            self._moved = trio.Event()

    async def _try_in_turn(self, generation: Generation) -> None:
        model_id = generation.request.model_id
        tried: set[str] = set()
        error: RequestError = UnavailableError(f"no node answers for {model_id} now")
        while not generation.over:
            chosen = choose(self._candidates(model_id, generation.fingerprint), tried)
            if chosen is None:
                generation.failed(error)
            elif chosen.node_id == HERE:
                try:
                    self._scheduler.adopt(generation)
                except RequestError as refused:
                    generation.failed(refused)
                return
            else:
                tried.add(chosen.node_id)
                error = await self._try(chosen.node_id, generation) or error

    async def _try(self, node_id: str, generation: Generation) -> RequestError | None:
        """Have one peer answer; give why it did not, if another may."""
        try:
            await self._follow(node_id, generation)
        except RequestError as refused:
            generation.returned()
            if refused.status in _ELSEWHERE:
                return refused
            generation.failed(refused)
        except PeerLostError as lost:
            _log.warning("request %s lost its node: %s", generation.request.request_id, lost)
            self._emit(events.NetworkFailed("connection", 1))
            generation.interrupted("peer_lost")
            return UnavailableError(f"node {node_id} was lost before the answer was complete")
        return None

    async def _follow(self, node_id: str, generation: Generation) -> None:
        """Pass one peer's answer on.

        Raises:
            PeerLostError: It did not come to its end.
            RequestError: The peer does not take the request, or has another model by now.
        """
        model_id = generation.request.model_id
        found = [peer for peer in self._peers.find(model_id) if peer.node_id == node_id]
        if not found:
            raise PeerLostError(f"{node_id} has gone")
        self._away[node_id] += 1
        failed: list[Exception] = []
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, node_id, generation, nursery.cancel_scope)
                await self._pass_on(found[0], generation)
                nursery.cancel_scope.cancel()
        except* (PeerLostError, RequestError) as group:
            failed += leaves(group)
        finally:
            self._away[node_id] -= 1
        if failed:
            raise failed[0]
        if not generation.left.is_set():
            raise PeerLostError(f"{node_id} was lost in the middle")
        generation.finished("cancelled", "")  # where its caller left

    async def _pass_on(self, peer: PeerModel, generation: Generation) -> None:
        generation.begin(peer.fingerprint)
        began = trio.current_time()
        request = generation.remainder()
        body = wire.pack_request(request)
        self._emit(events.MessagesMoved("sent", "forward", 1, len(body)))
        async with self._client.ask(peer.url, body, request.request_id) as frames:
            async for frame in frames:
                if isinstance(frame, wire.Admitted):
                    seconds = trio.current_time() - began
                    self._emit(events.PeerAnswered(peer.node_id, "forward", seconds))
                else:
                    _take(frame, generation)

    async def _watch(self, node_id: str, generation: Generation, scope: trio.CancelScope) -> None:
        """Break off when nobody waits for the answer any more, or its peer is gone."""
        while self._peers.is_living(node_id):
            with trio.move_on_after(_LOOK_SECONDS):
                await generation.left.wait()
                break
        scope.cancel()


def _take(frame: wire.Frame, generation: Generation) -> None:
    match frame:
        case wire.Accepted():
            generation.evaluated(0, 0, 0)
        case wire.Drawn(token, piece):
            generation.sampled(token, piece)
        case wire.Vector(numbers):
            generation.embedded(numbers)
        case wire.Ended(reason, prompt_tokens, cached_tokens):
            generation.reckoned(prompt_tokens, cached_tokens)
            generation.finished("length" if reason == "length" else "stop", "")
        case wire.Failed(status, code, message):
            raise PeerRefusedError(status, message, code, None)


def _ignore(event: events.Event) -> None:
    del event
