"""Which traces are recorded: the caller decides; for a trace without one, a ratio."""

from typing import Final

from shared.events.trace import TraceContext

_LOW_BITS: Final = 1 << 64


def is_recorded(trace: TraceContext | None, ratio: float) -> bool:
    """Return whether a trace is recorded, the same in every process with the same ratio.

    The same as OpenTelemetry's samplers `ParentBased` and `TraceIdRatioBased`.

    Args:
        trace: A request's place in its trace, perhaps from a damaged event.
        ratio: The share of the traces that a node began, from 0 to 1.
    """
    if trace is None or not trace.is_valid:
        return False
    if trace.sampled is not None:
        return trace.sampled
    return int(trace.trace_id, 16) % _LOW_BITS < round(ratio * _LOW_BITS)


def recorded_id(trace: TraceContext | None, ratio: float) -> str:
    """Return the id of a recorded trace; empty if it is not recorded."""
    return trace.trace_id if trace is not None and is_recorded(trace, ratio) else ""
