"""Admits requests, keeps each model's bounded queue, and feeds its engine one at a time."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import trio

from node.engine.protocol import Generate
from node.engine.supervisor import Engine
from node.errors import (
    ModelNotFoundError,
    QueueFullError,
    RequestError,
    UnavailableError,
)
from node.inference.generation import Emit, Generation, InferenceRequest
from shared import events

_SLOTS: Final = 1
"""Requests that one child works on at once: the library keeps a single sequence."""

_ANY_CONTEXT: Final = 2**20

_log = logging.getLogger(__name__)


class Lane:
    """One model's way to its engine: who waits, and who is being served.

    Args:
        engine: The model's engine.
        queue_limit: Requests that may wait; one more is refused with `QueueFullError`.
        emit: Takes events.
        changed: Called when a slot was taken or freed.
    """

    def __init__(
        self, engine: Engine, queue_limit: int, emit: Emit, changed: Callable[[], None]
    ) -> None:
        self.engine: Final = engine
        self._queue_limit = queue_limit
        self._emit = emit
        self._changed = changed
        self._waiting: deque[Generation] = deque()
        self._served: Generation | None = None
        self._arrived = trio.Event()

    @property
    def idle(self) -> bool:
        """Whether nobody waits or is served."""
        return not self._waiting and (self._served is None or self._served.over)

    @property
    def has_free_slot(self) -> bool:
        """Whether a request would be served at once."""
        return self.engine.ready and self._served is None

    def admit(self, request: InferenceRequest) -> Generation:
        """Put a request in the queue.

        Raises:
            QueueFullError: The queue holds as many as it may.
        """
        if len(self._waiting) >= self._queue_limit:
            message = f"{self._queue_limit} requests wait for {request.model_id}: try again later"
            raise QueueFullError(message)
        # Before the first load nobody knows the context; an answer is never longer than it.
        room = self.engine.context_length or _ANY_CONTEXT
        generation = Generation(request, self._emit, room, self._forget_the_gone)
        self._waiting.append(generation)
        self._arrived.set()
        self._note_load()
        return generation

    def load(self) -> events.LoadChanged:
        """Describe who waits and who is served now."""
        busy = int(self._served is not None)
        return events.LoadChanged(
            self.engine.model_id, busy + len(self._waiting), len(self._waiting), busy, _SLOTS
        )

    async def run(self) -> None:
        """Serve the queue. Runs until cancelled."""
        while True:
            generation = await self._next()
            try:
                await self.engine.wait_ready()
                if not generation.over:
                    await self._serve(generation)
            except UnavailableError as error:
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
        while True:
            if self._waiting:
                self._served = self._waiting.popleft()
                self._note_load()
                return self._served
            self._arrived = trio.Event()
            await self._arrived.wait()

    async def _serve(self, generation: Generation) -> None:
        request = generation.request
        command = Generate(
            generation.identity,
            request.prompt,
            request.control_tokens,
            request.max_tokens,
            request.sampling,
        )
        generation.started()
        await self.engine.begin(generation, command)
        await generation.changed.wait()
        await self.engine.release(generation)

    def _forget_the_gone(self) -> None:
        self._waiting = deque(g for g in self._waiting if not g.over)
        self._note_load()

    def _note_load(self) -> None:
        self._emit(self.load())
        self._changed()


class Scheduler:
    """The node's models by name, and whether it takes requests.

    Args:
        emit: Takes events.
    """

    def __init__(self, emit: Emit) -> None:
        self.on_change: Callable[[], None] = lambda: None
        """Called when what the node can take has changed."""
        self._emit = emit
        self._lanes: dict[str, Lane] = {}
        self._moved = trio.Event()
        self.draining = False

    def add(self, engine: Engine, queue_limit: int) -> Lane:
        """Serve a model; the caller runs the lane that is given back."""
        lane = Lane(engine, queue_limit, self._emit, self._note_change)
        self._lanes[engine.model_id] = lane
        return lane

    @property
    def lanes(self) -> Iterator[Lane]:
        """Every model's lane."""
        return iter(self._lanes.values())

    def find(self, model_id: str) -> Engine:
        """Give a model's engine.

        Raises:
            ModelNotFoundError: No such model is served here.
        """
        try:
            return self._lanes[model_id].engine
        except KeyError:
            served = ", ".join(self._lanes) or "none"
            message = f"the model {model_id!r} is not served here; served: {served}"
            raise ModelNotFoundError(message, parameter="model") from None

    def admit(self, request: InferenceRequest) -> Generation:
        """Take a request in.

        Raises:
            UnavailableError: The node is stopping.
            QueueFullError: The model's queue is full.
            ModelNotFoundError: No such model is served here.
        """
        self.find(request.model_id)
        try:
            if self.draining:
                raise UnavailableError("the node is stopping: send the request elsewhere")
            return self._lanes[request.model_id].admit(request)
        except RequestError:
            self._emit(_rejection(request.model_id))
            raise

    async def drain(self, grace_seconds: float) -> None:
        """Take no more requests and wait for those in work, for as long as the grace."""
        self.draining = True
        self.on_change()
        with trio.move_on_after(grace_seconds):
            while not all(lane.idle for lane in self._lanes.values()):
                await self._moved.wait()

    def end(self) -> None:
        """End whatever is left with an error that its caller sees."""
        error = UnavailableError("the node stopped before the answer was complete", code="stopped")
        for lane in self._lanes.values():
            lane.fail_all(error)

    def _note_change(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
        self.on_change()


def _rejection(model_id: str) -> events.InferenceFinished:
    return events.InferenceFinished(
        model_id=model_id,
        status="rejected",
        finish_reason=None,
        seconds=0.0,
        queue_seconds=0.0,
        prefill_seconds=0.0,
        decode_seconds=0.0,
        first_token_seconds=None,
        prompt_tokens=0,
        cached_tokens=0,
        generated_tokens=0,
        discarded_tokens=0,
    )
