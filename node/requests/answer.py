"""The answer to one request, as its caller reads it; it outlives every attempt to make it."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self

import msgspec
import trio

from node.errors import DeadlineExceededError, OtherModelError, RequestError
from node.requests.arrival import Arrival
from node.requests.parts import Part, Words
from node.requests.request import (
    ELSEWHERE,
    UNKNOWN_TOKEN,
    InferenceRequest,
    Token,
    is_other_model,
)
from node.requests.text import TextAssembler
from shared.events.requests import FinishReason
from shared.events.trace import TraceContext


class Delta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer: its text, possibly empty, and the number of its tokens."""

    text: str
    tokens: int
    token: Token | None = None
    """The token itself, if another node asks or its likelihood is wanted."""
    part: Part | None = None
    """What it is, if the engine has read that already; else the text may hold several parts."""


@dataclass(frozen=True)
class Ending:
    """How an answer ended, with its token counts."""

    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    """Up to and including the token that completed a stop sequence; the same for a stream."""


class Answer:
    """The answer that the caller reads: text as it arrives, then how it ended.

    The task that answers the caller holds it in a `with` block around the whole response, so that
    any cancellation of the task cancels the request. Nodes and engines add to the answer, one after
    the other if they are lost.

    Unread pieces are kept, so a slow reader never delays an engine. An answer never exceeds the
    model's context, which bounds it.
    """

    def __init__(self, request: InferenceRequest) -> None:
        self.request: Final = request
        self.tokens: Final = list(request.prior)
        """The tokens so far, without those drawn past a stop sequence."""
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.unseen_tokens = 0
        """Tokens that an engine reported beyond those that it sent."""
        self.vector: tuple[float, ...] = ()
        """The prompt's vector, if the request asked for it."""
        self.prompt: tuple[tuple[int, ...], str] = ((), "")
        """The prompt's tokens and its text, if the request asked for them."""
        self.echoed: tuple[tuple[Token, ...], str] | None = None
        """The prompt's tokens and its text, if they precede the answer."""
        self.thinks = False
        """Whether the prompt has already opened the model's thoughts; known once it is accepted."""
        self.error: RequestError | None = None
        self.ending: Ending | None = None
        self.over: Final = trio.Event()
        """Set when the answer is complete, failed or late, or its caller has left."""
        self.begun: Final = trio.Event()
        """Set when an engine has the request, or the answer is over."""
        self.accepted: Final = trio.Event()
        """Set when an engine works on the prompt, or the answer is over."""
        self.read_tokens = 0
        """Tokens whose text the caller has read."""
        self.on_over: Callable[[], None] = _ignore
        """Called when the answer is over; set by the current attempt."""
        self.admitted_at: Final = trio.current_time()
        seconds = request.deadline_seconds
        self._deadline = math.inf if seconds is None else self.admitted_at + seconds
        self._shows_tokens = request.forwarded or request.logprobs is not None
        self._fingerprint = request.fingerprint
        self._text = TextAssembler(request.stops)
        self._stopped = False
        """Whether a stop token was drawn."""
        for number, token in enumerate(request.prior, 1):
            self._read(token, number)
        self._unread: deque[Delta] = deque()
        self._arrival = Arrival()
        self._is_watched = False
        """Whether a task ends it at its deadline."""

    def __enter__(self) -> Self:
        """Return the answer, which is closed at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the answer."""
        self.close()

    # For the caller:

    async def wait_accepted(self) -> None:
        """Wait until an engine works on the prompt; an answer follows.

        Raises:
            RequestError: The request was not accepted.
        """
        await self._wait_in_time(self.accepted)
        if self.error is not None:
            raise self.error

    async def receive(self) -> Delta | Ending:
        """Wait for the next piece or the ending.

        Raises:
            RequestError: The answer ended in an error.
        """
        if (ending := await self._wait_more()) is not None:
            return ending
        delta = self._unread.popleft()
        self.read_tokens += delta.tokens
        return delta

    async def receive_several(self) -> Sequence[Delta] | Ending:
        """Wait for the next pieces, all that have arrived, or the ending; raises like `receive`."""
        if (ending := await self._wait_more()) is not None:
            return ending
        deltas, self._unread = self._unread, deque()
        for delta in deltas:
            self.read_tokens += delta.tokens
        return deltas

    async def watch(self) -> None:
        """End the answer at its deadline. Runs until it is over.

        Meanwhile `receive` needs no timer.
        """
        self._is_watched = True
        try:
            await self._wait_in_time(self.over)
        finally:
            self._is_watched = False
            self._arrival.note()

    def expire(self) -> None:
        """End the answer as late. Harmless after the end."""
        seconds = self.request.deadline_seconds
        self.fail(DeadlineExceededError(f"the answer was not complete after {seconds:g} s"))

    def close(self) -> None:
        """Cancel the request. Harmless after the end."""
        self._finish()

    @property
    def stop_sequence(self) -> str | None:
        """The stop sequence that ended the answer; None if none did."""
        return self._text.found

    # For the attempt:

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the only model that can continue; empty if any can."""
        if self.tokens and self.tokens[0].identity == UNKNOWN_TOKEN:
            return ELSEWHERE
        return self._fingerprint if self.tokens else ""

    def begin(self, fingerprint: str) -> None:
        """Record that an engine has the request now, and which model continues the answer.

        Args:
            fingerprint: The fingerprint of the model's file; empty if unknown.

        Raises:
            OtherModelError: The tokens so far were drawn by another model of the same name.
        """
        if is_other_model(self.fingerprint, fingerprint):
            raise OtherModelError(self.request.model_id)
        self._fingerprint = fingerprint or self.fingerprint
        self.begun.set()

    def echo(self, tokens: tuple[Token, ...], text: str) -> None:
        """Set the prompt's tokens and text. They stay as they are if an engine repeats them."""
        self.echoed = self.echoed or (tokens, text)

    def take(self, token: Token, now: float) -> None:
        """Add a token; the one that completes a stop sequence, or comes late, ends the answer.

        A caller with unread pieces waits for nothing, so the deadline is checked here as well.
        """
        self.tokens.append(token)
        text = self._read(token, len(self.tokens))
        self._deliver(Delta(text, 1, token if self._shows_tokens else None, token.part))
        if self._stopped or self._text.stopped:
            self.end("stop")
        elif now > self._deadline:
            self.expire()

    def _read(self, token: Token, number: int) -> str:
        """Return the text that the answer's token with this number completes."""
        if token.part is not None:  # the engine knows the stops, too
            return token.part.text if isinstance(token.part, Words) else ""
        may_stop = number > self.request.min_tokens
        if may_stop and token.identity in self.request.stop_tokens:
            self._stopped = True
            return ""
        return self._text.feed(token.piece, may_stop=may_stop)

    def end(self, reason: FinishReason) -> None:
        """End the answer as complete."""
        if self.over.is_set():
            return
        if rest := self._text.finish():
            self._deliver(Delta(rest, 0))
        generated_tokens = len(self.tokens) + self.unseen_tokens
        self.ending = Ending(reason, self.prompt_tokens, self.cached_tokens, generated_tokens)
        self._finish()

    def fail(self, error: RequestError) -> None:
        """End the answer with an error for its caller."""
        if not self.over.is_set():
            self.error = error
            self._finish()

    def remainder(
        self, *, only_if_free: bool, trace: TraceContext | None = None
    ) -> InferenceRequest:
        """Return the request for the remaining part, for another node.

        Args:
            only_if_free: Whether that node must be able to begin it now.
            trace: The forward's place in the caller's trace.
        """
        now = trio.current_time()
        left = self._deadline - now
        return replace(
            self.request,
            forwarded=True,
            only_if_free=only_if_free,
            trace=trace,
            prior=tuple(self.tokens),
            fingerprint=self.fingerprint,
            deadline_seconds=None if left == math.inf else max(0.0, left),
            waited_seconds=0.0 if self.tokens else now - self.admitted_at,
        )

    async def _wait_more(self) -> Ending | None:
        """Wait until there is a piece to read. Return the ending if there will be none."""
        if self._unread or self.over.is_set():
            await trio.lowlevel.checkpoint()
        while not (self._unread or self.over.is_set()):
            if self._is_watched:  # a timer of its own for each token costs as much as its text
                await self._arrival.wait()
            else:
                await self._wait_in_time(self._arrival)
        if self._unread:
            return None
        if self.ending is None:
            raise self.error or RequestError("the request was cancelled")
        return self.ending

    async def _wait_in_time(self, event: trio.Event | Arrival) -> None:
        """Wait for an event; the deadline ends the answer."""
        with trio.move_on_at(self._deadline) as limit:
            await event.wait()
        if limit.cancelled_caught:
            self.expire()

    def _deliver(self, delta: Delta) -> None:
        self._unread.append(delta)
        self._arrival.note()

    def _finish(self) -> None:
        if not self.over.is_set():
            self.over.set()
            self.begun.set()
            self.accepted.set()
            self._arrival.note()
            self.on_over()


def _ignore() -> None:
    """Do nothing: the answer has no attempt yet."""
