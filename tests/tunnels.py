"""A lender behind a real API server in this process, and tunnels to it."""

import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio
import trustme
from quart import Response
from quart_trio import QuartTrio

from node.api.edge.asgi import Application
from node.api.edge.owner import own
from node.api.http.front import json_response
from node.api.http.lent import add_lent
from node.api.schema import error_body
from node.errors import RequestError
from node.pipeline.build import Programs
from node.pipeline.lender import Lender, LenderOptions
from node.pipeline.remote import Tunnels
from node.pipeline.tunnel import Claim
from node.routing.signature import Signer
from node.routing.trust import PeerTrust
from shared.events.event import Event
from shared.runtime.http.server import Endpoint, serve
from tests.guards import strict_guard

LIMIT_SECONDS: Final = 60.0
SECRET: Final = "the secret of a mesh in a test"
NODE: Final = "lender"
BUILD: Final = "7 (abc)"
ROOM_BYTES: Final = 2**30

_SERVER: Final = f"""#!/bin/sh
echo "version: {BUILD}"
"""
_WORKER: Final = f"""#!{sys.executable}
import argparse, socket, sys
flags = argparse.ArgumentParser()
for name in ("--host", "--port", "--threads", "--device"):
    flags.add_argument(name)
flags.add_argument("--cache", action="store_true")
given = flags.parse_args()
listener = socket.create_server((given.host, int(given.port)))
while True:
    client, _ = listener.accept()
    try:
        while received := client.recv(65536):
            client.sendall(received.upper())
    except OSError:
        pass
    client.close()
"""


def fake_build(directory: Path, worker: str = _WORKER) -> Path:
    """Write the programs of a build whose worker returns what it gets in capitals."""
    directory.mkdir(exist_ok=True)
    for name, text in (("llama-server", _SERVER), ("ggml-rpc-server", worker)):
        (directory / name).write_text(text)
        (directory / name).chmod(0o700)
    return directory / "llama-server"


def claim(pipeline_id: str = "p1", **changes: Any) -> Claim:
    """Return a claim that is granted."""
    values: dict[str, Any] = {
        "node_id": NODE,
        "model_id": "m",
        "memory_bytes": 2**20,
        "build": BUILD,
    } | changes
    return Claim(pipeline_id=pipeline_id, **values)


@dataclass
class Lending:
    """A running lender and its API."""

    url: str
    lender: Lender
    programs: Programs
    events: list[Event] = field(default_factory=list)

    def tunnels(self, secret: str = SECRET, trust: PeerTrust | None = None) -> Tunnels:
        """Return what opens tunnels, with a secret."""
        return Tunnels(Signer((secret,)), trust or PeerTrust())


@asynccontextmanager
async def lending(
    directory: Path,
    server: Path | None = None,
    *,
    places: int = 2,
    room_bytes: int = ROOM_BYTES,
    certificate: trustme.LeafCert | None = None,
) -> AsyncIterator[Lending]:
    """Serve a lender until the block ends."""
    happened: list[Event] = []
    programs = Programs(server or fake_build(directory / "build"))
    options = LenderOptions(1, places, directory / "tensors", 2**30, cpu_only=True)
    lender = Lender(programs, options, lambda: room_bytes, happened.append)
    endpoint = Endpoint(
        host="127.0.0.1",
        port=0,
        connections=20,
        reader_seconds=30,
        tls=None if certificate is None else lambda: _context(certificate),
    )
    application = _application(lender, happened)
    stop = trio.Event()
    with trio.fail_after(LIMIT_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(programs.run)
            url: str = await nursery.start(serve, application, endpoint, strict_guard(), stop)
            while programs.build is None:  # noqa: ASYNC110 - set by another task
                await trio.sleep(0.01)
            yield Lending(url, lender, programs, happened)
            stop.set()
            nursery.cancel_scope.cancel()


def _application(lender: Lender, happened: list[Event]) -> Application:
    app: Any = QuartTrio(__name__)
    app.register_error_handler(RequestError, _answer)
    add_lent(app, lender, NODE, Signer((SECRET,)), happened.append)
    wrapped: Application = own(app)
    return wrapped


async def _answer(error: RequestError) -> Response:
    return json_response(error_body(error), error.status)


def _context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


async def connect(endpoint: str) -> trio.SocketStream:
    """Return a client's connection to a worker, as llama-server would open it."""
    host, _, port = endpoint.partition(":")
    return await trio.open_tcp_stream(host, int(port))


async def shout(client: trio.SocketStream, text: bytes) -> bytes:
    """Send bytes to a fake worker and return its answer, which is as long."""
    answer = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, text)
        while len(answer) < len(text):
            received = await client.receive_some()
            assert received, "the worker closed the connection"
            answer += received
    return bytes(answer)


async def wait_reset(client: trio.SocketStream) -> None:
    """Wait until a connection is reset; its end would not do."""
    try:
        while received := await client.receive_some():
            del received
    except trio.BrokenResourceError:
        return
    raise AssertionError("the connection was closed, but not reset")
