"""The answer to one request, as its caller reads it: it outlives every attempt to make it."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self

import msgspec
import trio

from node.errors import DeadlineExceededError, OtherModelError, RequestError
from node.requests.request import InferenceRequest, Token, is_other_model
from node.requests.text import TextAssembler
from shared.events import FinishReason


class Delta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer: its text, perhaps empty, and how many tokens made it."""

    text: str
    tokens: int
    token: Token | None = None
    """The token itself, where another node asks."""


@dataclass(frozen=True)
class Ending:
    """How an answer ended and what it took."""

    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    """Up to and with the token that completed a stop sequence; the same for a stream."""


class Answer:
    """What the caller gets: text as it comes, then how it ended.

    The task that answers the caller holds it in a `with` block around the whole response, so that
    the request is given up whatever cancels that task. Nodes and engines add to it, one after the
    other if they are lost.

    What is not read yet is kept: a slow reader never holds up an engine. An answer is never longer
    than the context of the model that makes it, which is the bound.
    """

    def __init__(self, request: InferenceRequest) -> None:
        self.request: Final = request
        self.tokens: Final = list(request.prior)
        """The whole answer so far, without what was drawn past a stop sequence."""
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.vector: tuple[float, ...] = ()
        """The prompt's vector, where the request asked for one."""
        self.error: RequestError | None = None
        self.ending: Ending | None = None
        self.over: Final = trio.Event()
        """Set when nobody waits for more: it is complete, failed, late, or its caller left."""
        self.begun: Final = trio.Event()
        """Set when an engine has the request, or the answer is over."""
        self.accepted: Final = trio.Event()
        """Set when an engine works on the prompt, or the answer is over."""
        self.read_tokens = 0
        """Tokens of which the caller has read the text."""
        self.on_over: Callable[[], None] = _ignore
        """Called when it is over; the attempt in hand sets it."""
        self._admitted_at = trio.current_time()
        seconds = request.deadline_seconds
        self._deadline = math.inf if seconds is None else self._admitted_at + seconds
        self._fingerprint = request.fingerprint
        self._text = TextAssembler(request.stops)
        for token in request.prior:
            self._text.feed(token.piece)
        self._unread: deque[Delta] = deque()
        self._arrived = trio.Event()

    def __enter__(self) -> Self:
        """Wait for the answer until the block ends."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave."""
        self.close()

    # The caller's side.

    async def wait_accepted(self) -> None:
        """Wait until an engine works on the prompt: from then on an answer comes.

        Raises:
            RequestError: The request was not accepted.
        """
        with trio.move_on_at(self._deadline) as limit:
            await self.accepted.wait()
        if limit.cancelled_caught:
            self._expire()
        if self.error is not None:
            raise self.error

    async def receive(self) -> Delta | Ending:
        """Wait for the next piece, or for how the answer ended.

        Raises:
            RequestError: The answer ended in an error.
        """
        if self._unread or self.over.is_set():
            await trio.lowlevel.checkpoint()
        else:
            self._arrived = trio.Event()
            with trio.move_on_at(self._deadline) as limit:
                await self._arrived.wait()
            if limit.cancelled_caught:
                self._expire()
        if self._unread:
            delta = self._unread.popleft()
            self.read_tokens += delta.tokens
            return delta
        if self.ending is None:
            raise self.error or RequestError("the answer was given up")
        return self.ending

    def receive_more(self) -> list[Delta]:
        """Take the pieces that are there already, without waiting."""
        deltas = list(self._unread)
        self._unread.clear()
        self.read_tokens += sum(delta.tokens for delta in deltas)
        return deltas

    def close(self) -> None:
        """Leave: the answer is not wanted any more. Harmless after the end."""
        self._finish()

    # The side of who makes it.

    @property
    def fingerprint(self) -> str:
        """Of the model's file that alone can go on with it; empty where any can."""
        return self._fingerprint if self.tokens else ""

    def begin(self, fingerprint: str) -> None:
        """Note that an engine has it now, and which model makes it from here on.

        Args:
            fingerprint: Of the model's file; empty where it is not known.

        Raises:
            OtherModelError: The tokens so far were drawn by another model of the same name.
        """
        if is_other_model(self.fingerprint, fingerprint):
            raise OtherModelError(self.request.model_id)
        self._fingerprint = fingerprint or self.fingerprint
        self.begun.set()

    def take(self, token: Token) -> None:
        """Add a token; the one that completes a stop sequence is the last and ends the answer."""
        self.tokens.append(token)
        text = self._text.feed(token.piece)
        self._deliver(Delta(text, 1, token if self.request.forwarded else None))
        if self._text.stopped:
            self.end("stop")

    def end(self, reason: FinishReason) -> None:
        """End it as complete."""
        if self.over.is_set():
            return
        if rest := self._text.finish():
            self._deliver(Delta(rest, 0))
        self.ending = Ending(reason, self.prompt_tokens, self.cached_tokens, len(self.tokens))
        self._finish()

    def fail(self, error: RequestError) -> None:
        """End it with an error that its caller sees."""
        if not self.over.is_set():
            self.error = error
            self._finish()

    def remainder(self, *, only_if_free: bool) -> InferenceRequest:
        """Return what is left to be done, for another node to do it."""
        now = trio.current_time()
        left = self._deadline - now
        return replace(
            self.request,
            forwarded=True,
            only_if_free=only_if_free,
            prior=tuple(self.tokens),
            fingerprint=self.fingerprint,
            deadline_seconds=None if left == math.inf else max(0.0, left),
            waited_seconds=0.0 if self.tokens else now - self._admitted_at,
        )

    def _expire(self) -> None:
        seconds = self.request.deadline_seconds
        self.fail(DeadlineExceededError(f"the answer was not complete after {seconds:g} s"))

    def _deliver(self, delta: Delta) -> None:
        self._unread.append(delta)
        self._arrived.set()

    def _finish(self) -> None:
        if not self.over.is_set():
            self.over.set()
            self.begun.set()
            self.accepted.set()
            self._arrived.set()
            self.on_over()


def _ignore() -> None:
    """Nobody makes it yet."""
