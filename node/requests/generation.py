"""One request on its way from admission to its one end, with the account that is kept of it."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import msgspec
import trio

from node.engine.protocol import EndReason, Generate, Prompt, Sampling
from node.errors import (
    ContextLengthError,
    DeadlineExceededError,
    EngineFailedError,
    InvalidRequestError,
    OtherModelError,
    QueueFullError,
    RequestError,
)
from node.requests.text import TextAssembler
from shared.events import (
    Event,
    FinishReason,
    InferenceFinished,
    InferenceResumed,
    RequestStatus,
    ResumeReason,
    TokensGenerated,
)

Emit = Callable[[Event], None]

_FRUITLESS_RESUMES: Final = 2
"""How often a request is handed to a new engine without a token in between: one that ends every
engine is at fault itself."""


class Token(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One token of an answer: its id in the model's vocabulary and the bytes that it stands for."""

    identity: int
    piece: bytes


@dataclass(frozen=True, kw_only=True)
class InferenceRequest:
    """What a caller wants, validated, whichever protocol it came by."""

    model_id: str
    prompt: Prompt
    max_tokens: int
    """0 for as many as the context holds."""
    sampling: Sampling
    stops: tuple[str, ...] = ()
    streamed: bool = False
    request_id: str = ""
    """Names the request in answers and exemplars."""
    client: str = ""
    """Who asks: requests of one client wait behind each other, not before those of others."""
    deadline_seconds: float | None = None
    """How long the whole answer may take from its admission; None for as long as it may."""
    embed: bool = False
    """Whether the prompt's vector is wanted in the place of a text."""
    forwarded: bool = False
    """Whether another node asks for its caller: it wants the tokens themselves, and this node
    answers, whatever it costs."""
    prior: tuple[Token, ...] = ()
    """What another node had generated of the answer when it was lost."""
    fingerprint: str = ""
    """Of the model's file that drew those tokens; empty where it is not known."""


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


_identities = itertools.count(1)


def is_other_model(one: str, another: str) -> bool:
    """Whether two fingerprints are known and differ."""
    return "" not in (one, another) and one != another


class _Phase(Enum):
    QUEUED = 0
    PREFILL = 1
    DECODE = 2


class Generation:
    """One admitted request.

    The engine's side calls `begin`, `evaluated`, `sampled`, `finished`, `interrupted` or `failed`;
    the caller's side reads with `receive` and leaves with `close`. Exactly one
    `InferenceFinished` is emitted for it, whatever happens.
    """

    def __init__(
        self,
        request: InferenceRequest,
        emit: Emit,
        room: int,
        left_queue: Callable[["Generation"], None] = lambda _: None,
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
        """Set when the engine is to let go of it, or has."""
        self.left = trio.Event()
        """Set when nobody waits for it any more: its caller left, its time is over, or it ended."""
        self._accepted = trio.Event()
        self.error: RequestError | None = None
        self.vector: tuple[float, ...] = ()
        """What was asked for with `embed`, once the generation is over."""
        self._ending: Ending | None = None
        self._emit = emit
        self._left_queue = left_queue
        self._text = TextAssembler(request.stops)
        # Room for the whole answer: a slow reader never holds the engine.
        self._send, self._receive = trio.open_memory_channel[Delta](room + 2)
        self._phase = _Phase.QUEUED
        now = trio.current_time()
        seconds = request.deadline_seconds
        self._deadline = math.inf if seconds is None else now + seconds
        self._began = {_Phase.QUEUED: now}
        self._closed = False
        self._expired = False
        self._in_engine = False
        self._interruption: ResumeReason | None = "peer_lost" if request.prior else None
        self._fruitless = 0
        """Interruptions since the last token."""
        self._tokens = list(request.prior)
        self._fingerprint = request.fingerprint
        self._foreign = len(request.prior)
        """Tokens among them that are another node's work and in its account."""
        for token in request.prior:
            self._text.feed(token.piece)
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._delivered = 0

    # The caller's side.

    async def wait_accepted(self) -> None:
        """Wait until the engine works on the prompt: from here on an answer comes.

        Raises:
            RequestError: It was not accepted.
        """
        with trio.move_on_at(self._deadline) as limit:
            await self._accepted.wait()
        if limit.cancelled_caught:
            self._expire()
        if self.error is not None:
            raise self.error

    async def receive(self) -> Delta | Ending:
        """Wait for the next piece, or for how the answer ended.

        Raises:
            RequestError: The answer ended in an error.
        """
        # What ended in time is read out, however late: its rest would be lost without a word.
        deadline = math.inf if self.over else self._deadline
        try:
            with trio.move_on_at(deadline):
                delta = await self._receive.receive()
                self._delivered += delta.tokens
                return delta
            self._expire()
        except trio.EndOfChannel:
            pass
        if self._ending is None or self.error is not None:
            raise self.error or RequestError("the answer was given up") from None
        return self._ending

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
        if not self._in_engine:
            self._end("cancelled", "cancelled")
        self.changed.set()
        self.left.set()

    @property
    def over(self) -> bool:
        """Whether it has come to its end."""
        return self._ending is not None

    @property
    def unwanted(self) -> bool:
        """Whether the engine should stop: nobody waits, or the answer hit a stop sequence."""
        return self._closed or self._expired or self._text.stopped or self.over

    # The engine's side.

    @property
    def fingerprint(self) -> str:
        """Of the model's file that alone can go on with it; empty where any can."""
        return self._fingerprint if self._tokens else ""

    def begin(self, fingerprint: str = "") -> Generate:
        """Note that an engine has it now, and say what that engine is to do.

        Args:
            fingerprint: Of the engine's model; empty where it is not known.

        Raises:
            OtherModelError: The tokens so far were drawn by another model of the same name.
        """
        if is_other_model(self.fingerprint, fingerprint):
            raise OtherModelError(self.request.model_id)
        self._fingerprint = fingerprint or self.fingerprint
        if self._interruption is not None:
            self._emit(InferenceResumed(self.request.model_id, self._interruption))
            self._interruption = None
        if self._phase is _Phase.QUEUED:
            self._enter(_Phase.PREFILL)
        self._in_engine = True
        self.changed = trio.Event()
        request = self.request
        return Generate(
            self.identity,
            request.prompt,
            request.max_tokens,
            request.sampling,
            tuple(token.identity for token in self._tokens),
            request.embed,
        )

    def remainder(self) -> InferenceRequest:
        """Give what is left to be done, for another node to do it."""
        left = self._deadline - trio.current_time()
        return replace(
            self.request,
            forwarded=True,
            prior=tuple(self._tokens),
            fingerprint=self.fingerprint,
            deadline_seconds=None if left == math.inf else max(0.0, left),
        )

    def adopt(self, emit: Emit, left_queue: Callable[["Generation"], None]) -> None:
        """Have this node do the rest of what another one began, and account for that rest."""
        self._emit = emit
        self._left_queue = left_queue
        self._foreign = len(self._tokens)
        self._delivered -= self._foreign
        self._interruption = "peer_lost" if self._tokens else None

    def evaluated(self, done: int, total: int, cached: int) -> None:
        """Note that `done` of the prompt's `total` tokens are evaluated."""
        del done  # progress is the supervisor's to watch
        self._accepted.set()
        if not self._own_tokens:  # else it is resumed, and its own tokens are among them
            self._prompt_tokens = total - self._foreign
            self._cached_tokens = cached

    def sampled(self, token: int, piece: bytes) -> None:
        """Take one token and its bytes."""
        if self.over:
            return
        if not self._own_tokens:
            self._enter(_Phase.DECODE)
        drawn = Token(token, piece)
        self._tokens.append(drawn)
        self._fruitless = 0
        self._emit(TokensGenerated(self.request.model_id, 1))
        if self.unwanted:
            return
        text = self._text.feed(piece)
        self._deliver(Delta(text, 1, drawn if self.request.forwarded else None))
        if self._text.stopped:
            self.changed.set()

    def embedded(self, vector: tuple[float, ...]) -> None:
        """Take the prompt's vector."""
        self.vector = vector

    def reckoned(self, prompt_tokens: int, cached_tokens: int) -> None:
        """Take from another node how long the prompt was."""
        self._prompt_tokens = prompt_tokens
        self._cached_tokens = cached_tokens

    def finished(self, reason: EndReason, message: str) -> None:
        """Note that the engine is done with it."""
        self._in_engine = False
        if self.over:
            return
        if reason == "too_long":
            self.failed(ContextLengthError(message))
        elif reason in ("refused", "no_template"):
            code = "no_chat_template" if reason == "no_template" else None
            self.failed(InvalidRequestError(message, parameter="messages", code=code))
        elif self._expired:
            self._end("timeout", "error")
        elif self._closed or (reason == "cancelled" and not self._text.stopped):
            self._end("cancelled", "cancelled")
        else:
            if rest := self._text.finish():
                self._deliver(Delta(rest, 0))
            self._end("ok", "length" if reason == "length" and not self._text.stopped else "stop")

    def interrupted(self, reason: ResumeReason) -> None:
        """Note that the engine ended while it had it.

        The next `begin` goes on where this engine was: the prompt and the tokens so far are
        evaluated again, and since each token's draw depends on the seed and its position alone,
        what follows is what would have followed.
        """
        self._in_engine = False
        if self.unwanted:
            self.finished("cancelled", "")
        elif self._fruitless >= _FRUITLESS_RESUMES:
            message = f"{self._fruitless + 1} engines ended with this request ({reason})"
            self.failed(EngineFailedError(message))
        else:
            self._fruitless += 1
            self._interruption = reason
            self.changed.set()

    def returned(self) -> None:
        """Note that a node that had it did not take it."""
        self._in_engine = False

    def failed(self, error: RequestError) -> None:
        """End it with an error that its caller sees."""
        if not self.over:
            self.error = error
            if isinstance(error, QueueFullError):  # as one that was never taken in
                self._end("rejected", None)
            else:
                self._end("rejected" if error.status < 500 else "error", "error")

    def _expire(self) -> None:
        """Give it up because its time is over; an engine that has it stops at its next token."""
        if self.over:
            return
        message = f"the answer was not complete after {self.request.deadline_seconds:g} s"
        self.error = DeadlineExceededError(message)
        self._expired = True
        if not self._in_engine:
            self._end("timeout", "error")
        self.changed.set()
        self.left.set()

    @property
    def _own_tokens(self) -> int:
        return len(self._tokens) - self._foreign

    def _deliver(self, delta: Delta) -> None:
        if not self._closed:
            self._send.send_nowait(delta)

    def _enter(self, phase: _Phase) -> None:
        self._phase = phase
        self._began[phase] = trio.current_time()

    def _end(self, status: RequestStatus, reason: FinishReason | None) -> None:
        if self.over:
            return
        self._ending = Ending(
            reason or "error", self._prompt_tokens, self._cached_tokens, len(self._tokens)
        )
        self._emit(self._account(status, reason, trio.current_time()))
        self._accepted.set()
        self.changed.set()
        self.left.set()
        self._send.close()
        if self._phase is _Phase.QUEUED:
            self._left_queue(self)

    def _account(
        self, status: RequestStatus, reason: FinishReason | None, now: float
    ) -> InferenceFinished:
        queued = self._began[_Phase.QUEUED]
        prefill = self._began.get(_Phase.PREFILL, now)
        decode = self._began.get(_Phase.DECODE, now)
        delivered = max(0, self._delivered) if self.request.streamed else 0
        return InferenceFinished(
            model_id=self.request.model_id,
            status=status,
            finish_reason=reason,
            seconds=now - queued,
            queue_seconds=prefill - queued,
            prefill_seconds=decode - prefill,
            decode_seconds=now - decode,
            first_token_seconds=decode - queued if self._own_tokens else None,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._own_tokens,
            discarded_tokens=0 if status == "ok" else max(0, self._own_tokens - delivered),
            request_id=self.request.request_id,
        )
