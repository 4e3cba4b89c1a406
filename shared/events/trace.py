"""A request's place in its caller's trace."""

import re
from typing import Final

import msgspec

_TRACE_ID: Final = re.compile(r"(?!0{32})[0-9a-f]{32}")
_SPAN_ID: Final = re.compile(r"(?!0{16})[0-9a-f]{16}")
"""All zeros are invalid (W3C Trace Context, section 3.2.2)."""


class TraceContext(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A request's place in its caller's trace: W3C Trace Context, with its own span."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits: the span of the request on this node."""
    parent_id: str = ""
    """The caller's span; empty if this node began the trace."""
    sampled: bool | None = None
    """Whether the caller records the trace; None if that is left to the exporters."""

    @property
    def is_valid(self) -> bool:
        """Whether the ids are ids; a peer or a damaged event may hold anything."""
        return (
            _TRACE_ID.fullmatch(self.trace_id) is not None
            and _SPAN_ID.fullmatch(self.span_id) is not None
            and (not self.parent_id or _SPAN_ID.fullmatch(self.parent_id) is not None)
        )
