"""A server with OpenAI's API on loopback that says what a test chose, and its faults."""

import contextlib
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEEP_ALIVE = b": keep-alive\n\n"


@dataclass(frozen=True)
class Say:
    """A streamed answer."""

    pieces: tuple[Any, ...] = ("Hello", ", ", "world")
    """Texts, or deltas of a chat."""
    finish: str | None = "stop"
    usage: Any = None
    done: bool = True
    cut: bool = False
    """Whether the connection is reset at the end."""
    hang: bool = False
    """Whether the server then sends keep-alive comments until its client leaves."""
    raw: bytes = b""
    """Bytes to send after the pieces."""


@dataclass(frozen=True)
class Refuse:
    """An error instead of an answer."""

    status: int
    message: str = "no"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """An answer in one piece."""

    body: Any


@dataclass(frozen=True)
class Close:
    """The end of the connection instead of an answer."""


Act = Say | Refuse | Reply | Close


@dataclass(frozen=True)
class Asked:
    """A received request."""

    path: str
    body: Any
    authorization: str


@dataclass
class Upstream:
    """The server: what it says next, and what it was asked."""

    models: Any = field(default_factory=lambda: [{"id": "big", "owned_by": "vllm"}])
    acts: deque[Act] = field(default_factory=deque)
    """What to do with the next requests; afterwards it says the default."""
    default: Act = field(default_factory=Say)
    key: str = ""
    shows_models: bool = False
    """Whether `/models` needs no key."""
    listing: Act | None = None
    """What to do instead of listing the models."""
    asked: list[Asked] = field(default_factory=list)
    running: int = 0
    most: int = 10**9
    """More requests at once get 429."""
    left: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released whenever a client has left a hanging answer."""
    port: int = 0
    _server: Any = None
    _sockets: set[socket.socket] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """The URL for a node."""
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Listen, on the same port as before."""
        handler = type("Handler", (_Handler,), {"upstream": self})
        self._server = _Server(("127.0.0.1", self.port), handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Close the port and reset every connection, as a killed server does."""
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        with self._lock:
            for connection in tuple(self._sockets):
                reset(connection)

    def requests(self, path: str = "/v1/chat/completions") -> list[Any]:
        """Return the bodies of the requests for answers, without those that check the key."""
        return [asked.body for asked in self.asked if asked.path == path and asked.body]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """Say nothing of a client that has left."""


class _Handler(BaseHTTPRequestHandler):
    upstream: Upstream
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        with self.upstream._lock:
            self.upstream._sockets.add(self.connection)

    def finish(self) -> None:
        with self.upstream._lock:
            self.upstream._sockets.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        known = self._knows_key() or self.upstream.shows_models
        act = self.upstream.listing or Reply({"object": "list", "data": self.upstream.models})
        self._act(act if known else Refuse(401, f"Incorrect API key: {self._authorization()}"))

    def do_POST(self) -> None:
        upstream = self.upstream
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with upstream._lock:
            upstream.asked.append(Asked(self.path, body, self._authorization()))
            if not self._knows_key():
                act: Act = Refuse(401, f"Incorrect API key: {self._authorization()}")
            elif not body:
                act = Refuse(400, "'messages' is required")
            elif upstream.running >= upstream.most:
                act = Refuse(429, "busy")
            else:
                act = upstream.acts.popleft() if upstream.acts else upstream.default
            upstream.running += 1
        try:
            self._act(act)
        finally:
            with upstream._lock:
                upstream.running -= 1

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Log nothing."""

    def _authorization(self) -> str:
        return str(self.headers.get("Authorization", ""))

    def _knows_key(self) -> bool:
        key = self.upstream.key
        return not key or self._authorization() == f"Bearer {key}"

    def _act(self, act: Act) -> None:
        self.close_connection = True
        match act:
            case Close():
                reset(self.connection)
            case Refuse(status, message, headers):
                self._reply(status, {"error": {"message": message, "code": status}}, headers)
            case Reply(body):
                self._reply(200, body, {})
            case Say():
                self._say(act)

    def _reply(self, status: int, body: Any, headers: Mapping[str, str]) -> None:
        written = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(written)))
        self.end_headers()
        self.wfile.write(written)

    def _say(self, act: Say) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for piece in act.pieces:
            self._choice(piece, None)
        self.wfile.write(act.raw)
        if act.hang:
            self._hang()
            return
        if act.finish is not None:
            self._choice("", act.finish)
        if act.usage is not None:
            self._event({"choices": [], "usage": act.usage})
        if act.done:
            self.wfile.write(b"data: [DONE]\n\n")
        self.wfile.flush()
        if act.cut:
            reset(self.connection)

    def _choice(self, piece: Any, finish: str | None) -> None:
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        if self.path.endswith("/chat/completions"):
            choice["delta"] = piece if isinstance(piece, dict) else {"content": piece}
        else:
            choice["text"] = piece
        self._event({"choices": [choice]})

    def _event(self, content: Any) -> None:
        self.wfile.write(b"data: " + json.dumps(content).encode() + b"\n\n")

    def _hang(self) -> None:
        try:
            while True:
                self.wfile.write(KEEP_ALIVE)
                time.sleep(0.02)
        except OSError:
            self.upstream.left.release()


def reset(connection: socket.socket) -> None:
    """Reset a connection, as a killed process's kernel does."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def serving(**changes: Any) -> Iterator[Upstream]:
    """Yield a server that listens."""
    upstream = Upstream(**changes)
    upstream.start()
    try:
        yield upstream
    finally:
        upstream.stop()
