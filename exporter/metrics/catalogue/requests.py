"""Requests for inference, their phases and their tokens."""

from typing import Final, get_args

from exporter.metrics.catalogue.family import MODEL, counter, gauge, histogram
from shared.events.requests import ErrorReason, FinishReason, RequestStatus, ResumeReason

_E2E: Final = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
_FIRST_TOKEN: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_PER_TOKEN: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
_GAP: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_PHASE: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKENS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
_STATUS: Final = get_args(RequestStatus)

REQUESTS: Final = counter(
    "inference_requests_total", "Requests that ended, by status.", *MODEL, "status", status=_STATUS
)
LATENCY: Final = histogram(
    "inference_latency_seconds",
    _E2E,
    "Seconds from a request's admission to its end, whatever its status.",
    *MODEL,
    "status",
    status=_STATUS,
)
TOKENS_GENERATED: Final = counter(
    "inference_tokens_generated", "Tokens generated, counted while they are generated.", *MODEL
)
FIRST_TOKEN: Final = histogram(
    "inference_time_to_first_token_seconds",
    _FIRST_TOKEN,
    "Seconds from a request's admission to its first token.",
    *MODEL,
)
PER_TOKEN: Final = histogram(
    "inference_time_per_output_token_seconds",
    _PER_TOKEN,
    "Seconds per token after the first: (duration - first token) / (tokens - 1).",
    *MODEL,
)
INTER_TOKEN: Final = histogram(
    "inference_inter_token_seconds",
    _GAP,
    "Seconds between two tokens of an answer, as they left the engine.",
    *MODEL,
)
QUEUE: Final = histogram(
    "inference_queue_seconds", _PHASE, "Seconds that a request waited for the engine.", *MODEL
)
PREFILL: Final = histogram(
    "inference_prefill_seconds", _PHASE, "Seconds from the engine's start to first token.", *MODEL
)
DECODE: Final = histogram(
    "inference_decode_seconds", _PHASE, "Seconds from the first token to the end.", *MODEL
)
REQUEST_PROMPT_TOKENS: Final = histogram(
    "inference_request_prompt_tokens", _TOKENS, "Prompt tokens of a request.", *MODEL
)
REQUEST_OUTPUT_TOKENS: Final = histogram(
    "inference_request_output_tokens", _TOKENS, "Tokens generated for a request.", *MODEL
)
PROMPT_TOKENS: Final = counter("inference_prompt_tokens_total", "Prompt tokens.", *MODEL)
PROMPT_TOKENS_CACHED: Final = counter(
    "inference_prompt_tokens_cached_total",
    "Prompt tokens that the engine still had in its cache.",
    *MODEL,
)
TOKENS_SPECULATED: Final = counter(
    "inference_speculative_tokens_total",
    "Tokens that a draft model proposed, and how many of them the model accepted.",
    *MODEL,
    "result",
    result=("drafted", "accepted"),
)
TOKENS_DISCARDED: Final = counter(
    "inference_tokens_discarded_total",
    "Tokens that were generated and then discarded, by reason.",
    *MODEL,
    "reason",
    reason=("cancelled", "timeout", "error"),
)
FINISHES: Final = counter(
    "inference_finish_total",
    "Admitted requests that ended, by finish reason.",
    *MODEL,
    "reason",
    reason=get_args(FinishReason),
)
ERRORS: Final = counter(
    "inference_errors_total",
    "Requests that ended with the status `error`, by reason.",
    *MODEL,
    "reason",
    reason=get_args(ErrorReason),
)
OBJECTIVES: Final = counter(
    "inference_slo_requests_total",
    "Requests judged by the service-level objectives, by objective and result.",
    *MODEL,
    "slo",
    "result",
    slo=("first_token", "per_token", "latency", "all"),
    result=("good", "bad"),
)
RESUMED: Final = counter(
    "inference_resumed_total",
    "Requests that continued here after their engine or node was lost, by reason.",
    *MODEL,
    "reason",
    reason=get_args(ResumeReason),
)
FORWARDED: Final = counter(
    "inference_forwarded_total",
    "Requests to this node that a peer began to answer: ended there, or the peer was lost.",
    *MODEL,
    "result",
    result=("ended", "lost"),
)
REQUESTS_IN_FLIGHT: Final = gauge(
    "inference_requests_in_flight", "Admitted requests that have not ended.", *MODEL
)
QUEUE_DEPTH: Final = gauge("inference_queue_depth", "Requests that wait for the engine.", *MODEL)
SLOTS: Final = gauge(
    "inference_slots",
    "Slots of the engine: busy, and in total.",
    *MODEL,
    "state",
    state=("busy", "total"),
)
