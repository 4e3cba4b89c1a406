"""Admits requests to the lanes of the node's models, loads and unloads them, and drains."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import trio

from node.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    RequestError,
    StoppingError,
    UnavailableError,
)
from node.requests.account import Accounts, Emit
from node.requests.answer import Answer
from node.requests.attempt import Attempt
from node.requests.request import InferenceRequest
from node.serving.lane import Lane


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a request."""

    output_tokens: int = 0
    """0 for as many as fit in the context."""
    seconds: float = math.inf
    """From the admission to the end."""


_NO_LIMITS: Final = Limits()


class Scheduler:
    """The node's models by name, and whether it accepts requests.

    Args:
        emit: Receives events.
        limits: Limits of a request.
    """

    def __init__(self, emit: Emit, limits: Limits = _NO_LIMITS) -> None:
        self.on_change: Callable[[], None] = lambda: None
        """Called when the node's capacity for requests has changed."""
        self.accounts: Final = Accounts(emit)
        """The accounts of the attempts at this node."""
        self._limits = limits
        self._lanes: dict[str, Lane] = {}
        self._moved = trio.Event()
        self.draining = False

    def add(self, lane: Lane) -> None:
        """Add a model; the caller runs its lane and its engine."""
        self._lanes[lane.engine.model_id] = lane

    @property
    def lanes(self) -> Iterator[Lane]:
        """The lane of every model that is served or can be loaded."""
        return iter(self._lanes.values())

    def find(self, model_id: str) -> Lane:
        """Return a model's lane.

        Raises:
            ModelNotFoundError: This node does not have the model.
        """
        try:
            return self._lanes[model_id]
        except KeyError:
            served = ", ".join(self._lanes) or "none"
            message = f"the model {model_id!r} is not served here; served: {served}"
            raise ModelNotFoundError(message, parameter="model") from None

    def attempt(self, answer: Answer) -> Attempt:
        """Return a new attempt at an answer, which this node counts."""
        return Attempt(answer, self.accounts.open(answer.request))

    def admit(self, request: InferenceRequest) -> Attempt:
        """Check a request against the limits and add it to its model's queue.

        Raises:
            ModelNotFoundError: This node does not serve the model; this is not counted.
            InvalidRequestError: It asks for a longer answer than allowed.
            UnavailableError: The node is stopping, or the model was unloaded on request.
            QueueFullError: The model's queue is full.
        """
        lane = self.find(request.model_id)
        attempt = self.begin(request)
        try:
            lane.put(attempt)
        except RequestError as error:
            attempt.reject(error)
            raise
        return attempt

    def begin(self, request: InferenceRequest) -> Attempt:
        """Check a request against the limits and start counting it; raises like `admit`."""
        try:
            return self.attempt(Answer(self._bound(request)))
        except RequestError as error:
            self.attempt(Answer(request)).reject(error)
            raise

    def queue(self, attempt: Attempt) -> None:
        """Add a request that was begun earlier, or elsewhere, to its model's queue.

        Raises:
            RequestError: This node has no place for it either.
        """
        lane = self.find(attempt.answer.request.model_id)
        if self.draining:
            raise _stopping()
        lane.put(attempt)

    async def load(self, model_id: str) -> None:
        """Load a model and keep it loaded. Ends when it is ready.

        Raises:
            ModelNotFoundError: This node does not have the model.
            RequestError: It could not be loaded.
        """
        lane = self.find(model_id)
        if self.draining:
            raise _stopping()
        lane.closed = False
        lane.engine.want()
        await lane.engine.wait_ready()
        lane.engine.resident = True
        lane.restart_idle_time()

    async def unload(self, model_id: str) -> None:
        """Accept no more requests for a model, finish its current ones, and unload it.

        Ends when its memory is free. If cancelled before those requests are done, the model stays
        and accepts requests again.

        Raises:
            ModelNotFoundError: This node does not have the model.
            UnavailableError: It was loaded again meanwhile.
        """
        lane = self.find(model_id)
        lane.closed = True
        try:
            await self._wait_idle(lane)
        except BaseException:  # otherwise it would stay in memory but answer nothing
            lane.closed = False
            raise
        await lane.engine.unload("requested")

    async def _wait_idle(self, lane: Lane) -> None:
        while not lane.idle:
            await self._moved.wait()
            if not lane.closed:
                raise UnavailableError(f"model {lane.engine.model_id} was loaded again meanwhile")

    async def drain(self, grace_seconds: float) -> None:
        """Accept no more requests, and wait for the current ones during the grace period."""
        self.draining = True
        self.on_change()
        with trio.move_on_after(grace_seconds):
            while not all(lane.idle for lane in self._lanes.values()):
                await self._moved.wait()

    def end(self) -> None:
        """End the remaining requests with an error for their callers."""
        error = UnavailableError("the node stopped before the answer was complete", code="stopped")
        for lane in self._lanes.values():
            lane.fail_all(error)

    def note_change(self) -> None:
        """Record that a lane or an engine has changed."""
        self._moved.set()
        self._moved = trio.Event()
        self.on_change()

    async def wait_change(self) -> None:
        """Wait until a lane or an engine has changed."""
        await self._moved.wait()

    def _bound(self, request: InferenceRequest) -> InferenceRequest:
        if self.draining:
            raise _stopping()
        most = self._limits.output_tokens
        if most and request.max_tokens > most:
            message = f"max_tokens is {request.max_tokens}; this node allows at most {most}"
            raise InvalidRequestError(message, parameter="max_tokens")
        seconds = request.deadline_seconds
        return replace(
            request,
            max_tokens=request.max_tokens or most,
            deadline_seconds=min(self._limits.seconds, math.inf if seconds is None else seconds),
        )


def _stopping() -> StoppingError:
    message = "the node is stopping: send the request elsewhere"
    return StoppingError(message, retry_after_seconds=1)
