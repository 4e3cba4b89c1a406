"""Requests for inference, from the queue to their end."""

from operator import sub
from typing import Final

from exporter.metrics.catalogue.requests import (
    DECODE,
    ERRORS,
    FINISHES,
    FIRST_TOKEN,
    FORWARDED,
    INTER_TOKEN,
    LATENCY,
    PER_TOKEN,
    PREFILL,
    PROMPT_TOKENS,
    PROMPT_TOKENS_CACHED,
    QUEUE,
    QUEUE_DEPTH,
    REQUEST_OUTPUT_TOKENS,
    REQUEST_PROMPT_TOKENS,
    REQUESTS,
    REQUESTS_IN_FLIGHT,
    RESUMED,
    SLOTS,
    TOKENS_DISCARDED,
    TOKENS_GENERATED,
)
from exporter.metrics.rules.rule import Observations, Rule, Sample
from shared.events.event import Event
from shared.events.requests import (
    InferenceFinished,
    InferenceResumed,
    LoadChanged,
    RequestForwarded,
    TokensGenerated,
)


def _load_changed(node: str, e: LoadChanged) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    return (
        (REQUESTS_IN_FLIGHT, model, e.in_flight),
        (QUEUE_DEPTH, model, e.queued),
        (SLOTS, (*model, "busy"), e.slots_busy),
        (SLOTS, (*model, "total"), e.slots_total),
    )


def _tokens_generated(node: str, e: TokensGenerated) -> tuple[Sample] | tuple[Sample, Observations]:
    model = (node, e.model_id)
    tokens = (TOKENS_GENERATED, model, e.count)
    gaps = list(map(sub, e.drawn_at[1:], e.drawn_at))
    return (tokens, (INTER_TOKEN, model, gaps)) if gaps else (tokens,)


def _inference_finished(node: str, e: InferenceFinished) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    samples: list[Sample] = [
        (REQUESTS, (*model, e.status), 1),
        (LATENCY, (*model, e.status), e.seconds),
    ]
    if e.status == "error":
        samples.append((ERRORS, (*model, e.reason or "other"), 1))
    if e.finish_reason is not None:
        samples += _work_done(model, e)
    if e.first_token_seconds is not None:
        samples.append((FIRST_TOKEN, model, e.first_token_seconds))
        if e.generated_tokens > 1:
            rest = max(0.0, e.seconds - e.first_token_seconds)
            samples.append((PER_TOKEN, model, rest / (e.generated_tokens - 1)))
    if e.discarded_tokens and e.status in ("cancelled", "timeout", "error"):
        samples.append((TOKENS_DISCARDED, (*model, e.status), e.discarded_tokens))
    return tuple(samples)


def _work_done(model: tuple[str, str], e: InferenceFinished) -> list[Sample]:
    """Account for an admitted request."""
    return [
        (FINISHES, (*model, str(e.finish_reason)), 1),
        (QUEUE, model, e.queue_seconds),
        (PREFILL, model, e.prefill_seconds),
        (DECODE, model, e.decode_seconds),
        (REQUEST_PROMPT_TOKENS, model, e.prompt_tokens),
        (REQUEST_OUTPUT_TOKENS, model, e.generated_tokens),
        (PROMPT_TOKENS, model, e.prompt_tokens),
        (PROMPT_TOKENS_CACHED, model, e.cached_tokens),
    ]


def _inference_resumed(node: str, e: InferenceResumed) -> tuple[Sample, ...]:
    return ((RESUMED, (node, e.model_id, e.reason), 1),)


def _request_forwarded(node: str, e: RequestForwarded) -> tuple[Sample, ...]:
    result = "lost" if e.status is None else "ended"
    return ((FORWARDED, (node, e.model_id, result), 1),)


RULES: Final[dict[type[Event], Rule]] = {
    LoadChanged: _load_changed,
    TokensGenerated: _tokens_generated,
    InferenceFinished: _inference_finished,
    InferenceResumed: _inference_resumed,
    RequestForwarded: _request_forwarded,
}
