"""Accounts for one attempt at an answer: its phases, its tokens, and the event of its end."""

from collections.abc import Callable
from typing import Final

import trio

from node.requests.answer import Answer
from node.requests.request import InferenceRequest
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
Verdict = tuple[RequestStatus, FinishReason | None]


class Account:
    """The measurements of one attempt. Its phases follow each other without a gap.

    A token counts when it is drawn, even if it is then discarded because its client has left. The
    engine may draw more tokens after a stop sequence before it is told to stop. Those are not part
    of the answer and are not counted, so that counters and `usage` agree.

    Args:
        request: The request.
        emit: Receives events.
    """

    def __init__(self, request: InferenceRequest, emit: Emit) -> None:
        self.generated_tokens = 0
        self._request = request
        self._emit = emit
        self._drew: Final = TokensGenerated(request.model_id, 1)
        self._queued_at = trio.current_time() - request.waited_seconds
        self._prefill_at: float | None = None
        self._decode_at: float | None = None

    def begin(self, resumed: ResumeReason | None) -> None:
        """Record that an engine has the request now."""
        if resumed is not None:
            self._emit(InferenceResumed(self._request.model_id, resumed))
        if self._prefill_at is None:
            self._prefill_at = trio.current_time()

    def draw(self) -> None:
        """Count a token."""
        if not self.generated_tokens:
            self._decode_at = trio.current_time()
        self.generated_tokens += 1
        self._emit(self._drew)

    def close(self, verdict: Verdict, answer: Answer, read_tokens: int) -> None:
        """Emit the event of the end.

        Args:
            verdict: How the attempt ended.
            answer: The answer.
            read_tokens: How many of this account's tokens the caller has read.
        """
        now = trio.current_time()
        status, reason = verdict
        # A request that was never admitted has not waited and has no phases.
        queued_at = now if reason is None else self._queued_at
        prefill_at = now if self._prefill_at is None else self._prefill_at
        decode_at = now if self._decode_at is None else self._decode_at
        kept = read_tokens if self._request.streamed else 0
        self._emit(
            InferenceFinished(
                model_id=self._request.model_id,
                status=status,
                finish_reason=reason,
                seconds=now - queued_at,
                queue_seconds=prefill_at - queued_at,
                prefill_seconds=decode_at - prefill_at,
                decode_seconds=now - decode_at,
                first_token_seconds=decode_at - queued_at if self.generated_tokens else None,
                prompt_tokens=answer.prompt_tokens,
                cached_tokens=answer.cached_tokens,
                generated_tokens=self.generated_tokens,
                discarded_tokens=0 if status == "ok" else max(0, self.generated_tokens - kept),
                request_id=self._request.request_id,
            )
        )
