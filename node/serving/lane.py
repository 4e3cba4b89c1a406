"""One model's way to its engine: its requests, waiting and current, and when it is loaded."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import trio

from node.engine.supervisor import Engine
from node.errors import HeldElsewhereError, QueueFullError, RequestError, UnavailableError
from node.requests.account import Emit
from node.requests.attempt import Attempt
from node.requests.request import ELSEWHERE
from node.serving.command import command_of
from node.serving.fair_queue import FairQueue
from node.serving.service_time import ServiceTime
from shared.events.node import NodePart
from shared.events.requests import LoadChanged
from shared.runtime.guard import Guard

_ELSEWHERE_SECONDS: Final = 1.0
"""How often to check whether another node still serves the model for the waiting requests."""


@dataclass(frozen=True, kw_only=True)
class LaneOptions:
    """Limits of a lane."""

    queue_limit: int
    """Limit of waiting requests; further ones are refused."""
    idle_seconds: float = math.inf
    """A model without requests for this long is unloaded until the next request."""


class Lane:
    """The queue in front of one engine.

    Args:
        engine: The model's engine; the caller runs it.
        options: The lane's limits.
        turns: How many engines may work at once, because more threads than cores do not help.
        emit: Receives events.
        changed: Called when a slot is taken or freed.
    """

    def __init__(
        self,
        engine: Engine,
        options: LaneOptions,
        turns: trio.CapacityLimiter,
        emit: Emit,
        changed: Callable[[], None],
    ) -> None:
        self.engine: Final = engine
        self._options = options
        self._turns = turns
        self._emit = emit
        self._changed = changed
        self._waiting = FairQueue[Attempt](options.queue_limit)
        self._served: set[Attempt] = set()
        self._is_kept_waiting = False
        """Whether other models' engines have every turn."""
        self._moved = trio.Event()
        """Set when a request has arrived or has ended."""
        self._service_time = ServiceTime()
        self.closed = False
        """Whether the model was unloaded on request; then requests do not load it again."""
        engine.on_resize = self._note_moved

    @property
    def idle(self) -> bool:
        """Whether no request waits or is being served."""
        return not self._waiting and all(attempt.over for attempt in self._served)

    @property
    def has_free_slot(self) -> bool:
        """Whether a request would start at once, or as soon as the model is loaded."""
        can_serve = self.engine.ready or (not self.closed and self.engine.state == "unloaded")
        return can_serve and self._free_slots > len(self._waiting)

    @property
    def can_begin(self) -> bool:
        """Whether a request would start at once, without waiting for another engine."""
        has_turn = bool(self._served) or self._turns.available_tokens > 0
        return self.has_free_slot and self.engine.ready and has_turn and self._may_begin

    @property
    def waiting(self) -> Iterator[Attempt]:
        """Requests that this node cannot begin now, in serving order."""
        is_engine_due = self.engine.ready or self._is_unloaded
        can_begin = is_engine_due and not self._is_kept_waiting and self._may_begin
        return itertools.islice(tuple(self._waiting), self._free_slots if can_begin else 0, None)

    @property
    def retry_after_seconds(self) -> int:
        """When a retry is worthwhile: once half of the waiting requests are served."""
        return self._service_time.retry_after_seconds(len(self._waiting), self.engine.model.slots)

    @property
    def is_full(self) -> bool:
        """Whether the queue is full."""
        return len(self._waiting) >= self._options.queue_limit

    def put(self, attempt: Attempt) -> None:
        """Add a request to the queue.

        Raises:
            UnavailableError: The model was unloaded on request.
            QueueFullError: The queue is full, or the request does not want to wait.
        """
        model_id = self.engine.model_id
        if self.closed:
            message = f"model {model_id} was unloaded: load it first"
            raise UnavailableError(message, code="model_unloaded")
        request = attempt.answer.request
        if request.only_if_free and not self.can_begin:
            raise QueueFullError(f"no slot of {model_id} is free", code="no_free_slot")
        displaced = self._waiting.put(request.client, attempt)
        if displaced is attempt:
            raise self._full(model_id)
        attempt.join(self._forget, self._note_moved)
        if displaced is not None:
            displaced.failed(self._full(model_id))
        self._note_moved()
        self._note_load()

    def load(self) -> LoadChanged:
        """Return the numbers of waiting and current requests."""
        busy, queued = len(self._served), len(self._waiting)
        return LoadChanged(
            self.engine.model_id, busy + queued, queued, busy, self.engine.model.slots
        )

    def tell_load(self) -> None:
        """Emit the load, unless the model is unloaded and its level series were removed."""
        if self.engine.state != "unloaded":
            self._emit(self.load())

    def restart_idle_time(self) -> None:
        """Restart the idle time."""
        self._note_moved()

    async def run(self, guard: Guard[NodePart]) -> None:
        """Serve the queue. Runs until cancelled.

        Args:
            guard: Contains an unexpected error in one request, so that the others continue.
        """
        while True:
            await self._wait_for_request()
            try:
                self.engine.want()
                await self.engine.wait_ready()
            except HeldElsewhereError:  # the router passes them on, unless that node is lost
                with trio.move_on_after(_ELSEWHERE_SECONDS):
                    await self._wait_moved()
                continue
            except RequestError as error:
                self._fail_waiting(error)
                continue
            self._is_kept_waiting = not self._turns.available_tokens
            async with self._turns:
                self._is_kept_waiting = False
                await self._take_turn(guard)
            if self._waiting and not self._has_due:
                await self._wait_moved()

    def fail_all(self, error: RequestError) -> None:
        """End every waiting and current request."""
        for attempt in tuple(self._served):
            attempt.failed(error.fresh())
        self._fail_waiting(error)

    @property
    def _is_unloaded(self) -> bool:
        """Whether the next request loads the model here."""
        return self.engine.state == "unloaded" and not self.engine.defers

    @property
    def _free_slots(self) -> int:
        return max(0, self.engine.model.slots - len(self._served))

    @property
    def _has_due(self) -> bool:
        """Whether the engine could begin a request that waits."""
        may_begin = self._free_slots or not self.engine.ready
        return bool(may_begin) and not all(attempt.held for attempt in self._waiting)

    @property
    def _may_begin(self) -> bool:
        """Whether another request may begin: not if another engine waits for this one's turn."""
        return not (self._served and self._turns.statistics().tasks_waiting)

    async def _wait_for_request(self) -> None:
        while not self._waiting:
            with trio.move_on_after(self._options.idle_seconds) as idle:
                await self._wait_moved()
            if idle.cancelled_caught and self.engine.ready:
                await self.engine.unload("idle")

    async def _wait_moved(self) -> None:
        self._moved = trio.Event()
        await self._moved.wait()

    async def _take_turn(self, guard: Guard[NodePart]) -> None:
        """Serve requests, as many at once as the engine has slots.

        Ends when the current requests are done and no other has begun meanwhile: none waits, the
        engine is gone, or another engine waits for the turn.
        """
        async with trio.open_nursery() as slots:
            self._begin_due(slots, guard)
            while self._served:
                self._begin_due(slots, guard)
                await self._wait_moved()

    def _begin_due(self, slots: trio.Nursery, guard: Guard[NodePart]) -> None:
        """Begin the requests that are due, while there are free slots."""
        while self.engine.ready and self._free_slots and self._may_begin:
            if (attempt := self._waiting.take(_is_due)) is None:
                return
            self._served.add(attempt)
            slots.start_soon(self._serve, attempt, guard, name=f"request {attempt.identity}")

    async def _serve(self, attempt: Attempt, guard: Guard[NodePart]) -> None:
        """Run a request in the engine. If the engine ends first, the request is next again."""
        began = trio.current_time()
        self._note_load()
        try:
            with guard.contain("lane") as work:
                await self._run_in_engine(attempt)
            if work.error is not None:
                # A request that triggers one of our own bugs must not be retried: it would fail
                # forever.
                attempt.failed(RequestError("internal error; see the node's log"))
                await self.engine.release(attempt)
        finally:
            self._served.remove(attempt)
            if not attempt.over:
                self._waiting.put_back(attempt.answer.request.client, attempt)
            self._note_load()
            self._note_moved()
        self._service_time.note(trio.current_time() - began)

    async def _run_in_engine(self, attempt: Attempt) -> None:
        if attempt.over:  # its caller left in the meantime
            return
        try:
            elsewhere = self.engine.model.is_elsewhere
            attempt.begin(ELSEWHERE if elsewhere else self.engine.model.fingerprint)
            await self.engine.begin(attempt, command_of(attempt))
            await attempt.let_go.wait()
            await self.engine.release(attempt)
        except RequestError as error:
            attempt.failed(error)

    def _fail_waiting(self, error: RequestError) -> None:
        for attempt in tuple(self._waiting):
            attempt.failed(error.fresh())

    def _full(self, model_id: str) -> QueueFullError:
        return QueueFullError(
            f"{self._options.queue_limit} requests are waiting for {model_id}: try again later",
            retry_after_seconds=self.retry_after_seconds,
        )

    def _forget(self, attempt: Attempt) -> None:
        """Record that a request no longer waits here."""
        client = attempt.answer.request.client
        if self._waiting.remove(client, attempt, served=attempt.taken_over):
            self._note_moved()  # the remaining requests may all be held, or there are none
            self._note_load()

    def _note_moved(self) -> None:
        self._moved.set()

    def _note_load(self) -> None:
        self.tell_load()
        self._changed()


def _is_due(attempt: Attempt) -> bool:
    return not attempt.held
