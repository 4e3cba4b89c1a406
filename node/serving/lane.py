"""One model's way to its engine: who waits, who is being served, and when the model is loaded."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from node.engine.supervisor import Engine
from node.errors import QueueFullError, RequestError, UnavailableError
from node.requests.generation import Emit, Generation, InferenceRequest
from node.serving.fair_queue import FairQueue
from shared import events

_SLOTS: Final = 1
"""Requests that one child works on at once: the library keeps a single sequence."""
ANY_CONTEXT: Final = 2**20
"""Tokens that no answer has."""
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
        self._waiting = FairQueue[Generation](options.queue_limit)
        self._served: Generation | None = None
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
        return can_serve and self._served is None

    @property
    def retry_after_seconds(self) -> int:
        """When asking again is worth while: once half of who waits has been served."""
        seconds = self._service_seconds * (len(self._waiting) + _SLOTS) / 2
        return max(1, min(_LONGEST_RETRY_SECONDS, math.ceil(seconds)))

    @property
    def is_full(self) -> bool:
        """Whether the queue holds as many as it may."""
        return len(self._waiting) >= self._options.queue_limit

    def admit(self, request: InferenceRequest) -> Generation:
        """Put a request in the queue.

        Raises:
            UnavailableError: The model was unloaded on purpose.
            QueueFullError: The queue holds as many as it may.
        """
        # Before the first load nobody knows the context; an answer is never longer than it.
        room = self.engine.context_length or ANY_CONTEXT
        generation = Generation(request, self._emit, room, self._forget)
        self._put(generation)
        return generation

    def adopt(self, generation: Generation) -> None:
        """Put a request in the queue that another node had; raises as `admit` does."""
        self._put(generation)
        generation.adopt(self._emit, self._forget)

    def _put(self, generation: Generation) -> None:
        model_id = self.engine.model_id
        if self.closed:
            message = f"model {model_id} was unloaded: load it first"
            raise UnavailableError(message, code="model_unloaded")
        displaced = self._waiting.put(generation.request.client, generation)
        if displaced is generation:
            raise self._full(model_id)
        if displaced is not None:
            displaced.failed(self._full(model_id))
        self._arrived.set()
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

    async def run(self) -> None:
        """Serve the queue. Runs until cancelled."""
        while True:
            generation = await self._next()
            try:
                await self._serve(generation)
            except RequestError as error:
                generation.failed(error)
            finally:
                self._served = None
                self._note_load()

    def fail_all(self, error: RequestError) -> None:
        """End every request that waits or is served."""
        served = [self._served] if self._served else []
        for generation in [*served, *tuple(self._waiting)]:
            generation.failed(error)

    async def _next(self) -> Generation:
        while (generation := self._waiting.take()) is None:
            self._arrived = trio.Event()
            with trio.move_on_after(self._options.idle_seconds) as idle:
                await self._arrived.wait()
            if idle.cancelled_caught and self.engine.ready:
                await self.engine.unload("idle")
        self._served = generation
        self._note_load()
        return generation

    async def _serve(self, generation: Generation) -> None:
        """Have it answered, by one engine after another if they end.

        Raises:
            RequestError: There is no engine to be had.
        """
        began = trio.current_time()
        while not generation.over:
            self.engine.want()
            await self.engine.wait_ready()
            async with self._turns:
                if not generation.over and self.engine.ready:
                    command = generation.begin(self.engine.fingerprint)
                    await self.engine.begin(generation, command)
                    await generation.changed.wait()
                    await self.engine.release(generation)
        self._note_service(trio.current_time() - began)

    def _note_service(self, seconds: float) -> None:
        before = self._service_seconds or seconds
        self._service_seconds = before + _NEWEST_SHARE * (seconds - before)

    def _full(self, model_id: str) -> QueueFullError:
        return QueueFullError(
            f"{self._options.queue_limit} requests wait for {model_id}: try again later",
            retry_after_seconds=self.retry_after_seconds,
        )

    def _forget(self, generation: Generation) -> None:
        """Take note that a request ended before the engine had it."""
        self._waiting.remove(generation.request.client, generation)
        self._note_load()

    def _note_load(self) -> None:
        self.tell_load()
        self._changed()
