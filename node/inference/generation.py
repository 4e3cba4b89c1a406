"""One request on its way from admission to its one end, with the account that is kept of it."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

import msgspec
import trio

from node.engine.protocol import EndReason, Sampling
from node.errors import ContextLengthError, RequestError
from node.inference.text import TextAssembler
from shared.events import Event, FinishReason, InferenceFinished, RequestStatus, TokensGenerated

Emit = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class InferenceRequest:
    """What a caller wants, validated, whichever protocol it came by."""

    model_id: str
    prompt: str
    control_tokens: bool
    """Whether text in the prompt may name control tokens, as a chat template does."""
    max_tokens: int
    """0 for as many as the context holds."""
    sampling: Sampling
    stops: tuple[str, ...] = ()
    streamed: bool = False
    request_id: str = ""
    """Names the request in answers and exemplars."""


class Delta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the answer: its text, perhaps empty, and how many tokens made it."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Ending:
    """How an answer ended and what it took."""

    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int


_identities = itertools.count(1)


class _Phase(Enum):
    QUEUED = 0
    PREFILL = 1
    DECODE = 2


class Generation:
    """One admitted request.

    The engine's side calls `started`, `evaluated`, `sampled`, `finished` or `failed`; the
    caller's side reads with `receive` and leaves with `close`. Exactly one `InferenceFinished`
    is emitted for it, whatever happens.
    """

    def __init__(
        self,
        request: InferenceRequest,
        emit: Emit,
        room: int,
        left_queue: Callable[[], None] = lambda: None,
    ) -> None:
        """Take what is wanted.

        Args:
            request: What is wanted.
            emit: Takes events.
            room: Tokens that can come at the most.
            left_queue: Called when it ended before the engine had it.
        """
        self.request: Final = request
        self.identity: Final = next(_identities)
        self.changed = trio.Event()
        """Set when the caller has left or the generation is over."""
        self._accepted = trio.Event()
        self.error: RequestError | None = None
        self._ending: Ending | None = None
        self._emit = emit
        self._left_queue = left_queue
        self._text = TextAssembler(request.stops)
        # Room for the whole answer: a slow reader never holds the engine.
        self._send, self._receive = trio.open_memory_channel[Delta](room + 2)
        self._phase = _Phase.QUEUED
        now = trio.current_time()
        self._began = {_Phase.QUEUED: now}
        self._closed = False
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._generated = 0
        self._delivered = 0

    # The caller's side.

    async def wait_accepted(self) -> None:
        """Wait until the engine works on the prompt: from here on an answer comes.

        Raises:
            RequestError: It was not accepted.
        """
        await self._accepted.wait()
        if self.error is not None:
            raise self.error

    async def receive(self) -> Delta | Ending:
        """Wait for the next piece, or for how the answer ended.

        Raises:
            RequestError: The answer ended in an error.
        """
        try:
            delta = await self._receive.receive()
        except trio.EndOfChannel:
            if self._ending is None or self.error is not None:
                raise self.error or RequestError("the answer was given up") from None
            return self._ending
        self._delivered += delta.tokens
        return delta

    def receive_more(self) -> list[Delta]:
        """Take the pieces that are there already, without waiting."""
        deltas: list[Delta] = []
        try:
            while True:
                deltas.append(self._receive.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            self._delivered += sum(delta.tokens for delta in deltas)
            return deltas

    def close(self) -> None:
        """Leave: the answer is not wanted any more. Harmless after the end."""
        self._closed = True
        self._receive.close()
        if self._phase is _Phase.QUEUED:
            self._end("cancelled", "cancelled")
        self.changed.set()

    @property
    def over(self) -> bool:
        """Whether it has come to its end."""
        return self._ending is not None

    @property
    def unwanted(self) -> bool:
        """Whether the engine should stop: the caller left, or the answer hit a stop sequence."""
        return self._closed or self._text.stopped

    # The engine's side.

    def started(self) -> None:
        """Note that the engine has it now."""
        self._enter(_Phase.PREFILL)

    def evaluated(self, done: int, total: int, cached: int) -> None:
        """Note that `done` of the prompt's `total` tokens are evaluated."""
        del done  # progress is the supervisor's to watch
        self._accepted.set()
        self._prompt_tokens = total
        self._cached_tokens = cached

    def sampled(self, piece: bytes) -> None:
        """Take the bytes of one token."""
        if self.over:
            return
        if not self._generated:
            self._enter(_Phase.DECODE)
        self._generated += 1
        self._emit(TokensGenerated(self.request.model_id, 1))
        if self.unwanted:
            return
        self._deliver(Delta(self._text.feed(piece), 1))
        if self._text.stopped:
            self.changed.set()

    def finished(self, reason: EndReason, message: str) -> None:
        """Note that the engine is done with it."""
        if self.over:
            return
        if reason == "too_long":
            self.failed(ContextLengthError(message))
        elif self._closed or (reason == "cancelled" and not self._text.stopped):
            self._end("cancelled", "cancelled")
        else:
            if rest := self._text.finish():
                self._deliver(Delta(rest, 0))
            self._end("ok", "length" if reason == "length" and not self._text.stopped else "stop")

    def failed(self, error: RequestError) -> None:
        """End it with an error that its caller sees."""
        if not self.over:
            self.error = error
            self._end("rejected" if error.status < 500 else "error", "error")

    def _deliver(self, delta: Delta) -> None:
        if not self._closed:
            self._send.send_nowait(delta)

    def _enter(self, phase: _Phase) -> None:
        self._phase = phase
        self._began[phase] = trio.current_time()

    def _end(self, status: RequestStatus, reason: FinishReason) -> None:
        if self.over:
            return
        self._ending = Ending(reason, self._prompt_tokens, self._cached_tokens, self._generated)
        self._emit(self._account(status, reason, trio.current_time()))
        self._accepted.set()
        self.changed.set()
        self._send.close()
        if self._phase is _Phase.QUEUED:
            self._left_queue()

    def _account(
        self, status: RequestStatus, reason: FinishReason, now: float
    ) -> InferenceFinished:
        queued = self._began[_Phase.QUEUED]
        prefill = self._began.get(_Phase.PREFILL, now)
        decode = self._began.get(_Phase.DECODE, now)
        delivered = self._delivered if self.request.streamed else 0
        return InferenceFinished(
            model_id=self.request.model_id,
            status=status,
            finish_reason=reason,
            seconds=now - queued,
            queue_seconds=prefill - queued,
            prefill_seconds=decode - prefill,
            decode_seconds=now - decode,
            first_token_seconds=decode - queued if self._generated else None,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated,
            discarded_tokens=0 if status == "ok" else self._generated - delivered,
            request_id=self.request.request_id,
        )
