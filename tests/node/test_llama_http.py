"""Answers of a llama-server are read like any HTTP/1.1 answer, in pieces of any size."""

import h11
import pytest

from node.engine.llama_cpp.http_reader import HttpReader, InvalidResponseError

BODY = b'data: {"content":"a"}\n\n' * 9
FRAMINGS = {
    "chunked": [("Transfer-Encoding", "chunked")],
    "measured": [("Content-Length", str(len(BODY)))],
    "until the end": [],
}


def answer(framing: str, status: int = 200) -> bytes:
    """Return an answer as h11 writes it; one without any framing as HTTP/1.0 servers do."""
    if not FRAMINGS[framing]:
        return b"HTTP/1.0 %d OK\r\nserver: x\r\n\r\n%b" % (status, BODY)
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    server.next_event()
    sent = server.send(h11.Response(status_code=status, headers=FRAMINGS[framing])) or b""
    for start in range(0, len(BODY), 50):
        sent += server.send(h11.Data(data=BODY[start : start + 50])) or b""
    return sent + (server.send(h11.EndOfMessage()) or b"")


def read(sent: bytes, step: int) -> tuple[int, bytes, bool]:
    """Return status and body of what arrives in such steps, and whether the body was complete."""
    reader, body = HttpReader(), b""
    for start in range(0, len(sent), step):
        body += reader.feed(sent[start : start + step])
    return reader.status, body, reader.is_over


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("step", [1, 7, 64, 10_000])
def test_body_is_read_in_any_framing(framing: str, step: int) -> None:
    """Status and body do not depend on the framing, nor on how the bytes arrive."""
    is_over = framing != "until the end"
    assert read(answer(framing, 400), step) == (400, BODY, is_over)
    assert read(b"HTTP/1.1 100 Continue\r\n\r\n" + answer(framing), step) == (200, BODY, is_over)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_end_of_the_connection_completes_only_a_body_without_length(framing: str) -> None:
    """An answer that breaks off is not taken for a complete one."""
    reader = HttpReader()
    reader.feed(answer(framing)[:-7])
    if FRAMINGS[framing]:
        with pytest.raises(InvalidResponseError, match="broke off"):
            reader.feed(b"")
    else:
        assert reader.feed(b"") == b""
        assert reader.is_over


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 yes\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nxxxxx\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
    ],
)
def test_what_is_no_answer_is_refused(sent: bytes) -> None:
    """Bytes of another protocol, an endless head or a broken chunk end the reading."""
    with pytest.raises(InvalidResponseError):
        HttpReader().feed(sent)
