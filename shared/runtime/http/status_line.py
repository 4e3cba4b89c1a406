"""Adds the reason phrase to HTTP/1.1 status lines, which hypercorn 0.18 leaves empty.

No program needs it, but some clients show no other error text.
"""

from http import HTTPStatus
from typing import Any, Final

import h11

_PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


def add_reason_phrases(protocol: Any) -> None:
    """Add reason phrases to the status lines of a new connection, if it speaks HTTP/1.1.

    Args:
        protocol: An `H11Protocol` that has received nothing yet; any other protocol is left
            unchanged.
    """
    if isinstance(protocol.connection, h11.Connection):
        limit = protocol.config.h11_max_incomplete_size
        protocol.connection = _Connection(h11.SERVER, max_incomplete_event_size=limit)


class _Connection(h11.Connection):
    def send_with_data_passthrough(self, event: h11.Event) -> list[bytes] | None:
        """Return the event's bytes in pieces, like h11."""
        if isinstance(event, h11.Response | h11.InformationalResponse) and not event.reason:
            event = type(event)(
                status_code=event.status_code,
                headers=list(event.headers.raw_items()),
                reason=_PHRASES.get(event.status_code, b""),
            )
        return super().send_with_data_passthrough(event)
