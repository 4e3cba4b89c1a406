"""What a model's engine holds, and whether it makes progress."""

from typing import Final, get_args

from exporter.metrics.catalogue.family import MODEL, counter, gauge, histogram
from shared.events.engine import RestartReason

_SEQUENCES: Final = (1, 2, 4, 8, 16, 32, 64)

ENGINE_SEQUENCES: Final = histogram(
    "engine_sequences",
    _SEQUENCES,
    "Sequences that a working engine decodes together, sampled once a second.",
    *MODEL,
)
ENGINE_CONTEXT: Final = gauge(
    "engine_context_tokens",
    "Context tokens in all slots: used by running requests, held in all, and the capacity.",
    *MODEL,
    "state",
    state=("used", "held", "capacity"),
)
ENGINE_CONTEXT_USAGE: Final = gauge(
    "engine_context_usage_ratio",
    "Share of the context capacity that running requests use, 0 to 1.",
    *MODEL,
)
ENGINE_MEMORY: Final = gauge(
    "engine_memory_bytes",
    "Bytes of a model by device, as its engine reports them.",
    *MODEL,
    "device",
)
ENGINE_PROGRESS: Final = gauge(
    "engine_last_progress_timestamp_seconds",
    "Unix time of the last prompt chunk or token, in seconds.",
    *MODEL,
)
ENGINE_SILENCE: Final = gauge(
    "engine_silent_seconds",
    "Seconds since an engine with work last made progress; 0 without work.",
    *MODEL,
)
ENGINE_RESTARTS: Final = counter(
    "engine_restarts_total",
    "Engine processes that were replaced, by reason.",
    *MODEL,
    "reason",
    reason=get_args(RestartReason),
)
