"""Accounts for each attempt at an answer: its phases, its tokens, and the event of its end."""

import time
from collections.abc import Callable
from typing import Final

import trio

from node.errors import RequestError
from node.requests.answer import Answer
from node.requests.request import InferenceRequest
from shared.events.event import Event
from shared.events.requests import (
    ErrorReason,
    FinishReason,
    InferenceFinished,
    InferenceResumed,
    RequestStatus,
    ResumeReason,
    TokensGenerated,
)

_CODE: Final = 64
"""Limit of an error's code in events, in characters: a peer may have sent any text."""

Emit = Callable[[Event], None]
Verdict = tuple[RequestStatus, FinishReason | None]
_TOKENS_TOGETHER: Final = 1024
"""Limit of tokens in one event: each has a time of 9 bytes, and `wire.EVENT_BYTES` is 16 KiB."""


class Accounts:
    """The accounts of a node's attempts, whose tokens are reported together.

    The carrier calls `report` at each flush, so tokens are counted while they are generated.

    Args:
        emit: Receives events.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._running: set[Account] = set()

    def open(self, request: InferenceRequest) -> "Account":
        """Return a new account of an attempt at the request."""
        return Account(request, self._emit, self._running)

    def report(self) -> None:
        """Emit the tokens drawn since the last report, one event per request."""
        for account in self._running:
            account.report()


class Account:
    """The measurements of one attempt. Its phases follow each other without a gap.

    A token counts when it is drawn, even if it is then discarded because its client has left. The
    engine may draw more tokens after a stop sequence before it is told to stop. Those are not part
    of the answer and are not counted, so that counters and `usage` agree.

    Args:
        request: The request.
        emit: Receives events.
        running: The accounts whose request an engine has; this one joins and leaves.
    """

    def __init__(self, request: InferenceRequest, emit: Emit, running: "set[Account]") -> None:
        self._request = request
        self._emit = emit
        self._running = running
        self._drawn_at: Final[list[float]] = []
        """When each token was drawn that is not reported yet."""
        self.draw: Final = self._drawn_at.append
        """Counts a token that was drawn at the given time; telemetry costs a token no more."""
        self._reported_tokens = 0
        self._unseen_tokens = 0
        self._newest_at: tuple[float, ...] = ()
        """When the last reported token was drawn, once there is one."""
        self._queued_at = trio.current_time() - request.waited_seconds
        self._lost_at = trio.current_time()
        self._resumed = 0
        self._prefill_at: float | None = None
        self._decode_at: float | None = None

    @property
    def generated_tokens(self) -> int:
        """The number of tokens drawn so far."""
        return self._reported_tokens + len(self._drawn_at) + self._unseen_tokens

    def begin(self, resumed: ResumeReason | None) -> None:
        """Record that an engine has the request now."""
        self._running.add(self)
        if resumed is not None:
            self._note_resumption(resumed)
        if self._prefill_at is None:
            self._prefill_at = trio.current_time()

    def decline(self) -> None:
        """Record that the engine did not begin the request, which waits again."""
        if not self.generated_tokens:
            self._prefill_at = None

    def count(self, tokens: int) -> None:
        """Count tokens that were drawn without being seen, so that their times are unknown."""
        if tokens:
            self._unseen_tokens += tokens
            self._emit(TokensGenerated(self._request.model_id, tokens))

    def interrupt(self) -> None:
        """Record that the request has lost its engine."""
        self._lost_at = trio.current_time()

    def pause(self) -> None:
        """Record that no engine has the request any more. Harmless if none had it."""
        self._running.discard(self)
        self.report()

    def report(self) -> None:
        """Emit the tokens drawn since the last report, if any."""
        drawn_at = self._drawn_at
        while drawn_at:
            new = drawn_at[:_TOKENS_TOGETHER]
            del drawn_at[:_TOKENS_TOGETHER]
            if not self._reported_tokens:
                self._decode_at = new[0]
            times = (*self._newest_at, *new)
            self._newest_at = times[-1:]
            self._reported_tokens += len(new)
            self._emit(TokensGenerated(self._request.model_id, len(new), times))

    def close(self, verdict: Verdict, answer: Answer, read_tokens: int) -> None:
        """Emit the event of the end; after `pause`.

        Args:
            verdict: How the attempt ended.
            answer: The answer.
            read_tokens: How many of this account's tokens the caller has read.
        """
        self._emit(self._finished(verdict, answer, read_tokens))

    def _finished(self, verdict: Verdict, answer: Answer, read_tokens: int) -> InferenceFinished:
        now = trio.current_time()
        status, reason = verdict
        # A request that was never admitted has not waited and has no phases.
        queued_at = now if reason is None else self._queued_at
        prefill_at = now if self._prefill_at is None else self._prefill_at
        decode_at = now if self._decode_at is None else self._decode_at
        kept = read_tokens if self._request.streamed else 0
        request = self._request
        # Python passes more than 15 arguments by name through a dictionary, which takes three times
        # as long as the rest of this call.
        return InferenceFinished(
            request.model_id,
            status,
            reason,
            now - queued_at,
            prefill_at - queued_at,
            decode_at - prefill_at,
            now - decode_at,
            decode_at - queued_at if self.generated_tokens else None,
            answer.prompt_tokens,
            answer.cached_tokens,
            self.generated_tokens,
            0 if status == "ok" else max(0, self.generated_tokens - kept),
            request.request_id,
            request.trace,
            route=request.route,
            client=request.credentials,
            operation=request.operation,
            reason=reason_of(answer.error, status),
            code=code_of(answer.error),
            ended_at=time.time(),
            local_seconds=now - answer.admitted_at,
            resumed=self._resumed,
        )

    def _note_resumption(self, reason: ResumeReason) -> None:
        self._resumed += 1
        self._emit(
            InferenceResumed(
                self._request.model_id,
                reason,
                request_id=self._request.request_id,
                trace=self._request.trace,
                resumed_at=time.time(),
                lost_seconds=trio.current_time() - self._lost_at,
            )
        )


def reason_of(error: RequestError | None, status: RequestStatus | None) -> ErrorReason | None:
    """Return why a request, or a peer's part of it, failed; None if it did not."""
    return error.reason if error is not None and status in ("error", None) else None


def code_of(error: RequestError | None) -> str:
    """Return the error's code for events; empty without one."""
    return "" if error is None or error.code is None else error.code[:_CODE]
