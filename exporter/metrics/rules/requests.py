"""Requests for inference, from the queue to their end."""

from collections.abc import Iterator
from itertools import islice
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
from exporter.metrics.grouping import split_by, split_by_model
from exporter.metrics.rules.rule import Column, GroupRule, Rule, Sample, ones
from shared.events.event import Event
from shared.events.requests import (
    InferenceFinished,
    InferenceResumed,
    LoadChanged,
    RequestForwarded,
    TokensGenerated,
)


def _load_changed(node: str, changed: list[LoadChanged]) -> Iterator[Column]:
    for model, group in split_by_model(node, changed):
        yield REQUESTS_IN_FLIGHT, model, [e.in_flight for e in group]
        yield QUEUE_DEPTH, model, [e.queued for e in group]
        yield SLOTS, (*model, "busy"), [e.slots_busy for e in group]
        yield SLOTS, (*model, "total"), [e.slots_total for e in group]


def _tokens_generated(node: str, generated: list[TokensGenerated]) -> Iterator[Column]:
    for model, group in split_by_model(node, generated):
        gaps: list[float] = []
        for event in group:
            gaps += map(sub, islice(event.drawn_at, 1, None), event.drawn_at)
        yield TOKENS_GENERATED, model, [e.count for e in group]
        yield INTER_TOKEN, model, gaps


def _inference_finished(node: str, finished: list[InferenceFinished]) -> Iterator[Column]:
    for model, group in split_by_model(node, finished):
        yield from _ends(model, group)
        yield from _work_done(model, [e for e in group if e.finish_reason is not None])
        yield from _speed(model, [e for e in group if e.first_token_seconds is not None])


def _ends(model: tuple[str, str], finished: list[InferenceFinished]) -> Iterator[Column]:
    for status, group in split_by(finished, "status"):
        yield REQUESTS, (*model, status), ones(group)
        yield LATENCY, (*model, status), [e.seconds for e in group]
        if status in ("cancelled", "timeout", "error"):
            labels = (*model, status)
            yield (
                TOKENS_DISCARDED,
                labels,
                [e.discarded_tokens for e in group if e.discarded_tokens],
            )
    failed = [e for e in finished if e.status == "error"]
    for reason, group in split_by(failed, "reason"):
        yield ERRORS, (*model, reason or "other"), ones(group)


def _work_done(model: tuple[str, str], admitted: list[InferenceFinished]) -> Iterator[Column]:
    """Account for admitted requests."""
    for finish_reason, group in split_by(admitted, "finish_reason"):
        yield FINISHES, (*model, finish_reason), ones(group)
    prompt_tokens: list[float] = [e.prompt_tokens for e in admitted]
    yield QUEUE, model, [e.queue_seconds for e in admitted]
    yield PREFILL, model, [e.prefill_seconds for e in admitted]
    yield DECODE, model, [e.decode_seconds for e in admitted]
    yield REQUEST_PROMPT_TOKENS, model, prompt_tokens
    yield REQUEST_OUTPUT_TOKENS, model, [e.generated_tokens for e in admitted]
    yield PROMPT_TOKENS, model, prompt_tokens
    yield PROMPT_TOKENS_CACHED, model, [e.cached_tokens for e in admitted]


def _speed(model: tuple[str, str], begun: list[InferenceFinished]) -> Iterator[Column]:
    """Account for requests that got a token."""
    firsts = [e.first_token_seconds or 0.0 for e in begun]
    yield FIRST_TOKEN, model, firsts
    per_token = [
        max(0.0, e.seconds - first) / (e.generated_tokens - 1)
        for e, first in zip(begun, firsts, strict=True)
        if e.generated_tokens > 1
    ]
    yield PER_TOKEN, model, per_token


def _inference_resumed(node: str, e: InferenceResumed) -> tuple[Sample, ...]:
    return ((RESUMED, (node, e.model_id, e.reason), 1),)


def _request_forwarded(node: str, e: RequestForwarded) -> tuple[Sample, ...]:
    result = "lost" if e.status is None else "ended"
    return ((FORWARDED, (node, e.model_id, result), 1),)


RULES: Final[dict[type[Event], Rule]] = {
    InferenceResumed: _inference_resumed,
    RequestForwarded: _request_forwarded,
}
GROUP_RULES: Final[dict[type[Event], GroupRule]] = {
    LoadChanged: _load_changed,
    TokensGenerated: _tokens_generated,
    InferenceFinished: _inference_finished,
}
