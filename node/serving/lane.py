"""One model's way to its engine: who waits, who is being served, and when the model is loaded."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import trio

from node.engine import protocol
from node.engine.supervisor import Engine
from node.errors import QueueFullError, RequestError, UnavailableError
from node.requests.account import Emit
from node.requests.attempt import Attempt
from node.serving.fair_queue import FairQueue
from shared import events

_SLOTS: Final = 1
"""Requests that one child works on at once: the library keeps a single sequence."""
_LONGEST_RETRY_SECONDS: Final = 600
_NEWEST_SHARE: Final = 0.2
"""Weight of the newest request in the average of how long one takes; a guess that follows a
change of load within some ten requests."""


@dataclass(frozen=True, kw_only=True)
class LaneOptions:
    """What a lane allows."""

    queue_limit: int
    """Requests that may wait; one more is refused."""
    idle_seconds: float = math.inf
    """A model that nobody asked for so long leaves memory until it is asked for again."""


class Lane:
    """The queue before one engine.

    Args:
        engine: The model's engine; the caller runs it.
        options: What is allowed.
        turns: How many engines may work at once, for more threads than cores help nobody.
        emit: Takes events.
        changed: Called when a slot was taken or freed.
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
        self._served: Attempt | None = None
        self._is_kept_waiting = False
        """Whether other models' engines have every turn."""
        self._arrived = trio.Event()
        self._service_seconds = 0.0
        """How long the engine has a request, on average; 0 before the first."""
        self.closed = False
        """Whether the model was unloaded on purpose: it is then not loaded for a request."""

    @property
    def idle(self) -> bool:
        """Whether nobody waits or is served."""
        return not self._waiting and (self._served is None or self._served.over)

    @property
    def has_free_slot(self) -> bool:
        """Whether a request would be served at once, or once the model is loaded for it."""
        can_serve = self.engine.ready or (not self.closed and self.engine.state == "unloaded")
        return can_serve and self._served is None and not self._waiting

    @property
    def can_begin(self) -> bool:
        """Whether a request would be served at once, with no other engine in its way."""
        return self.has_free_slot and self.engine.ready and self._turns.available_tokens > 0

    @property
    def waiting(self) -> Iterator[Attempt]:
        """Those that this node cannot begin with now, in the order in which they are served."""
        queued = iter(tuple(self._waiting))
        is_engine_due = self.engine.ready or self.engine.state == "unloaded"
        if is_engine_due and self._served is None and not self._is_kept_waiting:
            next(queued, None)
        return queued

    @property
    def retry_after_seconds(self) -> int:
        """When asking again is worthwhile: once half of those who wait have been served."""
        seconds = self._service_seconds * (len(self._waiting) + _SLOTS) / 2
        return max(1, min(_LONGEST_RETRY_SECONDS, math.ceil(seconds)))

    @property
    def is_full(self) -> bool:
        """Whether the queue holds as many as it may."""
        return len(self._waiting) >= self._options.queue_limit

    def put(self, attempt: Attempt) -> None:
        """Put a request in the queue.

        Raises:
            UnavailableError: The model was unloaded on purpose.
            QueueFullError: The queue holds as many as it may, or the request does not want to wait.
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
        attempt.join(self._forget, self._note_arrival)
        if displaced is not None:
            displaced.failed(self._full(model_id))
        self._note_arrival()
        self._note_load()

    def load(self) -> events.LoadChanged:
        """Describe who waits and who is served now."""
        busy = int(self._served is not None)
        return events.LoadChanged(
            self.engine.model_id, busy + len(self._waiting), len(self._waiting), busy, _SLOTS
        )

    def tell_load(self) -> None:
        """Emit the load, unless the model is not in memory and its levels left with it."""
        if self.engine.state != "unloaded":
            self._emit(self.load())

    def restart_idle_time(self) -> None:
        """Count the time without a request from now on."""
        self._note_arrival()

    async def run(self) -> None:
        """Serve the queue. Runs until cancelled."""
        while True:
            await self._wait_for_request()
            try:
                self.engine.want()
                await self.engine.wait_ready()
            except RequestError as error:
                self._fail_waiting(error)
                continue
            self._is_kept_waiting = not self._turns.available_tokens
            async with self._turns:
                self._is_kept_waiting = False
                if self.engine.ready and (attempt := self._waiting.take(_is_due)) is not None:
                    await self._serve(attempt)
            if self._waiting and all(attempt.held for attempt in self._waiting):
                await self._arrived.wait()

    def fail_all(self, error: RequestError) -> None:
        """End every request that waits or is served."""
        if self._served is not None:
            self._served.failed(error.fresh())
        self._fail_waiting(error)

    async def _wait_for_request(self) -> None:
        while not self._waiting:
            self._arrived = trio.Event()
            with trio.move_on_after(self._options.idle_seconds) as idle:
                await self._arrived.wait()
            if idle.cancelled_caught and self.engine.ready:
                await self.engine.unload("idle")
        self._arrived = trio.Event()

    async def _serve(self, attempt: Attempt) -> None:
        """Let the engine have it until it is done; if the engine ends before, it is next again."""
        began = trio.current_time()
        self._served = attempt
        self._note_load()
        try:
            attempt.begin(self.engine.fingerprint)
            await self.engine.begin(attempt, _command(attempt))
            await attempt.let_go.wait()
            await self.engine.release(attempt)
        except RequestError as error:
            attempt.failed(error)
        except Exception:
            # A request that brings out a fault of ours must not come again: it would for ever.
            attempt.failed(RequestError("the node failed; its log says why"))
            await self.engine.release(attempt)
            raise
        finally:
            self._served = None
            if not attempt.over:
                self._waiting.put_back(attempt.answer.request.client, attempt)
            self._note_load()
        self._note_service(trio.current_time() - began)

    def _fail_waiting(self, error: RequestError) -> None:
        for attempt in tuple(self._waiting):
            attempt.failed(error.fresh())

    def _note_service(self, seconds: float) -> None:
        before = self._service_seconds or seconds
        self._service_seconds = before + _NEWEST_SHARE * (seconds - before)

    def _full(self, model_id: str) -> QueueFullError:
        return QueueFullError(
            f"{self._options.queue_limit} requests wait for {model_id}: try again later",
            retry_after_seconds=self.retry_after_seconds,
        )

    def _forget(self, attempt: Attempt) -> None:
        """Note that a request does not wait here any more."""
        client = attempt.answer.request.client
        if self._waiting.remove(client, attempt, served=attempt.taken_over):
            self._note_arrival()  # those that are left may all be held, or none is left
            self._note_load()

    def _note_arrival(self) -> None:
        self._arrived.set()

    def _note_load(self) -> None:
        self.tell_load()
        self._changed()


def _is_due(attempt: Attempt) -> bool:
    return not attempt.held


def _command(attempt: Attempt) -> protocol.Generate:
    request = attempt.answer.request
    return protocol.Generate(
        attempt.identity,
        request.prompt,
        request.max_tokens,
        request.sampling,
        attempt.prior,
        request.embed,
    )
