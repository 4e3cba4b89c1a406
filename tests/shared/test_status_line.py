"""Status lines of HTTP/1.1 contain the reason phrase."""

from types import SimpleNamespace
from typing import Any

import h11
import pytest

from shared.runtime.http.status_line import add_reason_phrases


def protocol_of(connection: Any) -> Any:
    """Return the part of hypercorn's protocol state that matters here."""
    config = SimpleNamespace(h11_max_incomplete_size=2**16)
    return SimpleNamespace(connection=connection, config=config)


@pytest.mark.parametrize(
    ("status", "phrase"),
    [
        (200, b"OK"),
        (401, b"Unauthorized"),
        (415, b"Unsupported Media Type"),
        (431, b"Request Header Fields Too Large"),
        (503, b"Service Unavailable"),
        (599, b""),
    ],
)
def test_status_has_its_phrase(status: int, phrase: bytes) -> None:
    """The reason phrase is added, and the rest of the response is unchanged."""
    protocol = protocol_of(h11.Connection(h11.SERVER))
    add_reason_phrases(protocol)
    protocol.connection.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert isinstance(protocol.connection.next_event(), h11.Request)
    headers = [(b"Content-Length", b"0"), (b"X-One", b"1"), (b"X-One", b"2")]
    sent = protocol.connection.send(h11.Response(status_code=status, headers=headers))
    first, *rest = sent.split(b"\r\n")
    assert first == b"HTTP/1.1 %d %s" % (status, phrase)
    assert rest == [b"Content-Length: 0", b"X-One: 1", b"X-One: 2", b"", b""]


def test_other_protocols_are_left_alone() -> None:
    """HTTP/2 has no reason phrases."""
    connection = object()
    protocol = protocol_of(connection)
    add_reason_phrases(protocol)
    assert protocol.connection is connection
