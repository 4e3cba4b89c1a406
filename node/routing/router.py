"""Routes each request to the node with the shortest wait, and to another node if that one dies.

A request waits in this node's queue while there is room, and goes to the first node that can begin
it: this one, or a peer that became free. A request that waits at a peer also moves to another node
that becomes free first.
"""

import itertools
import math
from collections import defaultdict
from contextlib import ExitStack
from typing import Final, Literal

import trio

from node.errors import NodeLostError, RequestError, UnavailableError
from node.requests.account import Emit
from node.requests.answer import Answer
from node.requests.attempt import Attempt
from node.requests.request import InferenceRequest, is_other_model
from node.routing.asking import Ask, Asker
from node.routing.candidates import Candidates
from node.routing.choice import PeerModel, choose
from node.routing.client import PeerClient
from node.routing.loads import PeerLoads
from node.routing.peers import Peers
from node.serving.scheduler import Scheduler
from shared.runtime.guard import Guard

_LOOK_SECONDS: Final = 0.1
"""How often the adverts are checked while a request waits."""


class Router:
    """Admits requests for the whole mesh.

    Args:
        scheduler: Answers this node's share of the requests.
        peers: Knows the nodes that could answer.
        client: Asks the peers.
        emit: Receives events.
        guard: Contains unexpected errors of a request.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        peers: Peers,
        client: PeerClient,
        emit: Emit,
        guard: Guard[Literal["router"]],
    ) -> None:
        self._scheduler = scheduler
        self._guard = guard
        self._peers = peers
        self._client = client
        loads = PeerLoads()
        self._candidates = Candidates(scheduler, peers, loads)
        self._asker = Asker(peers, client, loads, emit)
        self._nursery: trio.Nursery | None = None
        self._abroad: dict[Attempt, None] = {}
        """Requests that wait at a peer and have no place in a queue here, the oldest first."""
        self._followed: list[Answer] = []
        """Answers that peers are making or are asked to make."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send waiting requests to nodes that become free. Runs until cancelled."""
        try:
            async with self._client.open(), trio.open_nursery() as self._nursery:
                task_status.started()
                while True:
                    is_waiting = self._look(self._nursery)
                    with trio.move_on_after(_LOOK_SECONDS if is_waiting else math.inf):
                        await self._scheduler.wait_change()
        finally:
            self._nursery = None

    def admit(self, request: InferenceRequest, owner: ExitStack) -> Answer:
        """Admit a request while its owner's block runs.

        Args:
            request: The request.
            owner: The owner of the task that answers the caller. Leaving it cancels the request.

        Raises:
            RequestError: Like `Scheduler.admit`; the refusal is counted.
        """
        nursery, model_id = self._nursery, request.model_id
        if nursery is None or request.forwarded or not self._candidates.is_for_peer(model_id):
            attempt = self._scheduler.admit(request)
        else:
            attempt = self._scheduler.begin(request)
            self._send_abroad(attempt, nursery)
        if nursery is not None:
            nursery.start_soon(attempt.answer.watch, name="deadline")
        return owner.enter_context(attempt.answer)

    def models(self) -> list[str]:
        """Return the names of the models available here, then those of the peers."""
        own = [lane.engine.model_id for lane in self._scheduler.lanes]
        return [*own, *sorted(self._peers.models().difference(own))]

    def context_length(self, model_id: str) -> int:
        """Return how many tokens a request to a model may hold; 0 while unknown."""
        own = [
            lane.engine.model.context_length
            for lane in self._scheduler.lanes
            if lane.engine.model_id == model_id
        ]
        lengths = own or [peer.context_length for peer in self._peers.find(model_id)]
        return min(filter(None, lengths), default=0)

    async def drain(self, grace_seconds: float) -> None:
        """Accept no more requests, and wait for the current ones during the grace period."""
        with trio.move_on_after(grace_seconds):
            await self._scheduler.drain(grace_seconds)
            while self._followed:
                await self._scheduler.wait_change()

    def end(self) -> None:
        """End the remaining requests with an error for their callers."""
        self._scheduler.end()
        for answer in tuple(self._followed):
            message = "the node stopped before the answer was complete"
            answer.fail(UnavailableError(message, code="stopped"))

    def _look(self, nursery: trio.Nursery) -> bool:
        """Send waiting requests to free nodes. Return whether any request waits."""
        with self._guard.contain("router"):  # the requests that peers answer continue
            return self._place_waiting(nursery)
        return True

    def _place_waiting(self, nursery: trio.Nursery) -> bool:
        for attempt in tuple(self._abroad):
            lane = self._candidates.lane(attempt.answer.request.model_id)
            if lane is not None and lane.can_begin and attempt.can_move:
                self._queue(attempt)
        waiting = defaultdict[str, list[Attempt]](list)
        queued = (attempt for lane in self._scheduler.lanes for attempt in lane.waiting)
        for attempt in itertools.chain(queued, self._abroad):
            if attempt.can_move:
                waiting[attempt.answer.request.model_id].append(attempt)
        for model_id, attempts in waiting.items():
            self._offer(model_id, attempts, nursery)
        return bool(waiting)

    def _offer(self, model_id: str, attempts: list[Attempt], nursery: trio.Nursery) -> None:
        """Offer waiting requests to free peers, in the order of their queues.

        A model that is left to another node waits there, free or not.
        """
        defers = (lane := self._candidates.lane(model_id)) is not None and lane.engine.defers
        nodes = [each for each in self._candidates.find(model_id) if each.is_free or defers]
        slots = {n.node_id: len(attempts) if defers else n.slots - n.in_flight for n in nodes}
        peers = [node.peer for node in nodes if node.peer is not None]
        for attempt in attempts:
            if attempt.held:
                continue
            free = [peer for peer in peers if slots[peer.node_id] > 0 and _suits(peer, attempt)]
            if free:
                peer = free[0]
                slots[peer.node_id] -= 1
                attempt.held = True
                ask = self._asker.prepare(peer, attempt, only_if_free=not defers)
                nursery.start_soon(self._follow, attempt, ask, name=_task_name(attempt))

    def _send_abroad(self, attempt: Attempt, nursery: trio.Nursery) -> None:
        """Start a request's wait at a peer, because this node cannot answer it soon."""
        nursery.start_soon(self._follow, attempt, None, name=_task_name(attempt))

    def _queue(self, attempt: Attempt) -> None:
        """Add a request to the queue here."""
        self._abroad.pop(attempt, None)
        try:
            self._scheduler.queue(attempt)
        except RequestError as error:
            attempt.failed(error)

    async def _follow(self, attempt: Attempt, offer: Ask | None) -> None:
        """Follow a request to its end, or until no peer is asked any more.

        Args:
            attempt: The waiting attempt.
            offer: The offer to a free peer; None if the request waits at a peer.
        """
        answer = attempt.answer
        self._followed.append(answer)
        is_seen_through = False
        try:
            with self._guard.contain("router"):  # one request's error must not end others
                following = attempt if offer is None else await self._make_offer(offer)
                while following is not None:
                    following = await self._wait_abroad(following)
                is_seen_through = True
        finally:
            if not is_seen_through and (attempt.taken_over or offer is None):
                answer.fail(RequestError("internal error; see the node's log"))
            self._followed.remove(answer)
            self._scheduler.note_change()

    async def _make_offer(self, offer: Ask) -> Attempt | None:
        """Offer it to a free peer. Return an attempt to continue if the peer was lost."""
        try:
            await self._asker.run(offer)
        finally:
            offer.attempt.release()
        if offer.is_refused_for_now:
            offer.attempt.asked.discard(offer.peer.node_id)
        return self._resume(offer)

    async def _wait_abroad(self, attempt: Attempt) -> Attempt | None:
        """Wait at one peer after the other. Return an attempt to continue if one was lost."""
        self._abroad[attempt] = None
        model_id = attempt.answer.request.model_id
        error: RequestError = NodeLostError(f"no node answers for {model_id} now")
        try:
            while attempt in self._abroad and not attempt.waited.is_set():
                candidates = self._candidates.find(model_id, attempt.answer.fingerprint)
                chosen = choose(candidates, attempt.asked)
                if chosen is None and attempt.held:
                    await self._scheduler.wait_change()
                elif chosen is None:
                    attempt.failed(error)
                elif chosen.peer is None:
                    self._queue(attempt)
                else:
                    ask = self._asker.prepare(chosen.peer, attempt, only_if_free=False)
                    self._scheduler.note_change()
                    await self._asker.run(ask)
                    if ask.begun:
                        return self._resume(ask)
                    error = self._note_refusal(ask, error)
        finally:
            self._abroad.pop(attempt, None)
        return None

    def _note_refusal(self, ask: Ask, before: RequestError) -> RequestError:
        """End a request that no other node can answer either. Return why this peer did not."""
        error = ask.request_error or before
        if ask.error is not None and not error.others_may_answer and ask.attempt in self._abroad:
            ask.attempt.failed(error)
        return error

    def _resume(self, ask: Ask) -> Attempt | None:
        """Return a new attempt at an answer that lost its peer, if another node can continue it."""
        answer, error = ask.attempt.answer, ask.request_error
        if not ask.begun or answer.over.is_set() or error is None:
            return None
        if not error.others_may_answer:
            answer.fail(error)
            return None
        again = self._scheduler.attempt(answer)
        again.asked.update(ask.attempt.asked)
        return again


def _suits(peer: PeerModel, attempt: Attempt) -> bool:
    """Return whether a peer can answer in this node's place and was not asked before."""
    other = is_other_model(attempt.answer.fingerprint, peer.fingerprint)
    return not other and peer.node_id not in attempt.asked


def _task_name(attempt: Attempt) -> str:
    return f"request {attempt.answer.request.request_id}"
