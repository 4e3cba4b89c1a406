"""Any bytes from a client get a well-formed answer without a fault of the node.

A few hundred requests by default, many thousands with `--hypothesis-profile=slow`.
"""

import gzip
import http.client
import io
import json
import socket
import zlib
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.api.chat_schema import ChatRequest
from node.api.neutral import NEUTRAL
from tests.processes import Running

SECONDS: Final = 60.0
PATHS: Final = ("/v1/completions", "/v1/chat/completions", "/v1/models", "/health", "/nowhere")
FEW = settings(max_examples=max(60, settings.default.max_examples))  # type: ignore[union-attr]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([10**400, -(2**63) - 1, 1e308, "\0", "\ud800", "demo"])
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
fields = st.sampled_from(
    [
        *("model", "prompt", "messages", "max_tokens", "max_completion_tokens", "stream"),
        *("temperature", "top_p", "top_k", "seed", "stop", "stream_options", "n", "user"),
        *NEUTRAL[ChatRequest],
    ]
)
nearly = st.dictionaries(fields, documents, max_size=6).map(
    lambda given: {"max_tokens": 1, "prompt": "x"} | given
)

pytestmark = pytest.mark.timeout(3600)
"""The number of examples with the slow profile."""


def dump(document: Any) -> bytes:
    """Return JSON, including values that JSON does not allow."""
    return json.dumps(document).encode("utf-8", "surrogatepass")


bodies = (
    documents.map(dump)
    | nearly.map(dump)
    | st.binary(max_size=200)
    | st.integers(1, 20_000).map(lambda depth: b"[" * depth)
    | st.integers(1, 20_000).map(lambda depth: b'{"prompt":' * depth + b"1" + b"}" * depth)
    | st.binary(max_size=20).map(lambda inner: b'{"prompt": "' + inner + b'"}')
)
turns = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "assistant", "tool", "system", "owner", None, 1]),
            "content": scalars | st.lists(documents, max_size=2),
            "tool_calls": documents,
            "name": scalars,
            "x": documents,
        },
    )
    | documents,
    max_size=4,
)
chats = turns.map(lambda messages: dump({"max_tokens": 1, "messages": messages}))
"""Chats with the mistakes that clients make."""
encodings = st.sampled_from(["gzip", "x-gzip", "deflate", "br", "zstd", "identity", "gzip, gzip"])
packings = st.sampled_from([gzip.compress, zlib.compress, bytes, lambda body: body[:-1]])
token = st.text("abcXYZ-_0123456789", min_size=1, max_size=12)
garbage = st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"").replace(b"\r", b""))
headers = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("Content-Type", "Content-Encoding", "Authorization", "X-Request-ID"),
                *("Accept", "Expect", "Origin", "Range"),
            ]
        )
        | token,
        garbage,
    ),
    max_size=6,
)


@pytest.fixture(scope="module", autouse=True)
def unharmed(shared_node: Running) -> Iterator[None]:
    """Check that the node answers and that its log has no traceback."""
    yield
    asked = {"prompt": "Once", "max_tokens": 2}
    done = httpx.post(f"{shared_node.url}/v1/completions", json=asked, timeout=SECONDS)
    assert done.status_code == 200
    assert "Traceback" not in shared_node.log.read_text()
    assert " ERROR " not in shared_node.log.read_text()


def send(node: Running, request: bytes, *, then_leave: bool = False) -> bytes:
    """Send bytes, perhaps end the sending, and read until the node closes."""
    parts = urlsplit(node.url)
    received = b""
    with socket.create_connection((parts.hostname, parts.port), timeout=SECONDS) as connection:
        try:
            connection.sendall(request)
            if then_leave:
                connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(65536):
                received += more
        except ConnectionError:  # it may close before it has read all of what it refuses
            pass
    return received


class _Bytes:
    """A response for the standard library's parser."""

    def __init__(self, received: bytes) -> None:
        self._received = received

    def makefile(self, mode: str) -> io.BytesIO:
        """Open it as a socket does."""
        del mode
        return io.BytesIO(self._received)


def check(received: bytes) -> None:
    """Check that a response has the form of HTTP and of OpenAI's API."""
    response = http.client.HTTPResponse(_Bytes(received))  # type: ignore[arg-type]
    response.begin()
    body = response.read()  # raises if it is cut short
    assert response.status < 500, received
    if response.getheader("Content-Type") == "application/json" and response.status >= 400:
        error = json.loads(body)["error"]
        assert {"message", "type", "param", "code"} == set(error)
        assert error["type"].endswith("_error")
        assert error["message"]


def write(method: bytes, target: bytes, given: list[tuple[str, bytes]], body: bytes) -> bytes:
    """Return an HTTP/1.1 request that closes its connection."""
    lines = [b"%s %s HTTP/1.1" % (method, target), b"Host: x", b"Connection: close"]
    lines += [b"%s: %s" % (name.encode(), text) for name, text in given]
    lines += [b"Content-Length: %d" % len(body), b"", body]
    return b"\r\n".join(lines)


@FEW
@given(path=st.sampled_from(PATHS[:2]), body=bodies)
@example(path="/v1/completions", body=b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}")
@example(path="/v1/completions", body=b'{"prompt": "x", "temperature": 1e999}')
@example(path="/v1/chat/completions", body=b'{"messages": [{"role": "\xff", "content": "x"}]}')
@example(path="/v1/chat/completions", body=b'{"messages": ' + b"[" * 100_000)
@example(path="/v1/chat/completions", body=b'{"messages": [], "messages": []}')
@example(path="/v1/completions", body=b'\xef\xbb\xbf{"prompt": "\\ud800", "n": 1}')
@example(
    path="/v1/completions", body=b'{"prompt": "x", "max_tokens": 1.0, "seed": -1, "x\\n": NaN}'
)
@example(path="/v1/completions", body=b'{"' + b"k" * 100_000 + b'": 1}')
def test_body(shared_node: Running, path: str, body: bytes) -> None:
    """Any body is understood or refused in OpenAI's form."""
    check(send(shared_node, write(b"POST", path.encode(), [], body)))


@FEW
@given(body=chats)
def test_chat(shared_node: Running, body: bytes) -> None:
    """Any messages are understood or refused."""
    check(send(shared_node, write(b"POST", b"/v1/chat/completions", [], body)))


@FEW
@given(body=bodies, encoding=encodings, pack=packings)
@example(body=bytes(2**24), encoding="gzip", pack=gzip.compress)
@example(body=gzip.compress(b"") * 1000, encoding="gzip", pack=bytes)
def test_compressed_body(shared_node: Running, body: bytes, encoding: str, pack: Any) -> None:
    """Any compression that a body declares is inflated within bounds or refused."""
    given_headers = [("Content-Encoding", encoding.encode())]
    check(send(shared_node, write(b"POST", b"/v1/completions", given_headers, pack(body))))


@FEW
@given(path=st.sampled_from(PATHS), given_headers=headers)
def test_headers(shared_node: Running, path: str, given_headers: list[tuple[str, bytes]]) -> None:
    """Any headers are ignored or refused."""
    body = b'{"prompt": "x", "max_tokens": 1}'
    check(send(shared_node, write(b"POST", path.encode(), given_headers, body)))


@FEW
@given(
    method=st.sampled_from(["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "get"]) | token,
    target=st.text(
        st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60
    ).map(lambda path: path.encode())
    | st.binary(max_size=20).map(lambda raw: b"/" + b"".join(b"%%%02x" % byte for byte in raw))
    | st.lists(st.sampled_from(["", ".", "..", "v1", "models", "%2f"]), max_size=6).map(
        lambda parts: ("/" + "/".join(parts)).encode()
    ),
)
@example(method="GET", target=b"?")
@example(method="OPTIONS", target=b"*")
@example(method="GET", target=b"http://")
@example(method="GET", target=b"http://other")
@example(method="GET", target=b"//other//v1//models//")
@example(method="GET", target=b"http://other/health")
def test_method_and_target(shared_node: Running, method: str, target: bytes) -> None:
    """Any method and target is answered; unknown ones get 404 or 405."""
    check(send(shared_node, write(method.encode(), target, [], b"")))


@FEW
@given(sent=st.binary(min_size=1, max_size=300))
@example(sent=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100)
@example(sent=b"GET / HTTP/1.1\r\nUpgrade: h2c\r\nHTTP2-Settings: !!\r\nHost: x\r\n\r\n")
@example(sent=b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
def test_bytes(shared_node: Running, sent: bytes) -> None:
    """Bytes that are not a request are refused or ignored."""
    received = send(shared_node, sent + b"\r\n\r\n", then_leave=True)
    if received.startswith(b"HTTP/1.1 "):
        assert received[9:10] < b"5", received
