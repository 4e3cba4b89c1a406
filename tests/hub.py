"""A fake of the Hugging Face Hub on loopback: the protocol that downloads use, and its faults."""

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Asked:
    """A received request."""

    method: str
    path: str
    headers: dict[str, str]
    """The headers, by lower-case name."""


@dataclass
class Hub:
    """The hub's file, its faults, and the requests that it received.

    As on the real hub, `resolve` redirects the client to another host for the bytes.
    """

    content: bytes
    url: str = ""
    sent: bytes | None = None
    """The bytes to send instead of the content."""
    size: int | None = None
    """The size to report instead of the true one."""
    etag: str | None = None
    refusal: tuple[int, str] | None = None
    """Status and error code to answer every request with."""
    cuts: list[int] = field(default_factory=list)
    """The number of bytes after which each of the next responses breaks off."""
    hold: threading.Event | None = None
    """If given, a response that breaks off hangs until this is set."""
    ranges: bool = True
    extra: dict[str, str] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    @property
    def hash(self) -> str:
        """The SHA-256 of the content, which is its name in the storage."""
        return hashlib.sha256(self.content).hexdigest()

    def of_storage(self) -> list[Asked]:
        """Return the requests for bytes."""
        return [asked for asked in self.asked if asked.path.startswith("/storage/")]


@contextlib.contextmanager
def open_hub(hub: Hub) -> Iterator[Hub]:
    """Serve until the block ends."""

    class Handler(_Handler):
        told = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, name="hub")
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    told: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base's name
        """Log nothing."""

    def _answer(self) -> None:
        hub = self.told
        hub.asked.append(
            Asked(self.command, self.path, {n.lower(): v for n, v in self.headers.items()})
        )
        if hub.refusal:
            status, code = hub.refusal
            self._head(status, {"X-Error-Code": code} if code else {}, 0)
        elif self.path.startswith("/storage/"):
            self._store()
        else:
            port = urlsplit(hub.url).port
            size = len(hub.content) if hub.size is None else hub.size
            headers = {
                "X-Repo-Commit": COMMIT,
                "X-Linked-ETag": f'"{hub.etag or hub.hash}"',
                "X-Linked-Size": str(size),
                "ETag": '"of-the-pointer"',
                "Location": f"http://localhost:{port}/storage/{hub.hash}?signature=s3cret",
            }
            self._head(302, headers | hub.extra, 0)

    def _store(self) -> None:
        hub = self.told
        sent = hub.content if hub.sent is None else hub.sent
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(found[1]) if found and hub.ranges else 0
        part = sent[start:]
        partial = {"Content-Range": f"bytes {start}-{len(sent) - 1}/{len(sent)}"}
        self._head(206 if start else 200, partial if start else {}, len(part))
        if self.command == "HEAD":
            return
        cut = hub.cuts.pop(0) if hub.cuts else None
        self.wfile.write(part[:cut])
        if cut is not None:
            self.wfile.flush()
            if hub.hold is not None:
                hub.hold.wait(60)
            self.close_connection = True

    def _head(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(length))
        self.end_headers()
