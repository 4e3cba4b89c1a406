"""A client that leaves at any moment leaves nothing behind: its request has one owner."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, trio_test, wait_all_tasks_blocked

from node.api.edge.owner import own
from node.api.grpc.application import beside, build_services
from node.api.grpc.health import HealthService
from node.api.grpc.inference import InferenceService
from node.api.http.app import build_app
from node.api.http.forwarded import add_forwarded
from node.requests.request import InferenceRequest, Sampling
from node.routing import wire
from node.routing.client import PeerClient
from node.routing.peers import NoPeers
from node.routing.router import Router
from node.routing.signature import Signer
from node.routing.trust import PeerTrust
from node.telemetry.status import NodeStatus
from shared.events.requests import TokensGenerated
from tests.guards import strict_guard
from tests.node.memory_child import Children, MemoryChild
from tests.node.test_scheduler import Place, open_place

SIGNER: Final = Signer([""])
ASKED: Final = {"prompt": "p", "max_tokens": 7}
GRPC: Final = "/distributed_llm.v1.Inference/"


def application(place: Place, router: Router) -> Any:
    """Build the node's API without authentication."""
    status = NodeStatus("0", place.scheduler, place.emitted.append)
    framework: Any = build_app(place.scheduler, router, status, "m")
    add_forwarded(framework, router, Signer([""]), place.emitted.append)
    nobody: Any = None
    inference = InferenceService(
        place.scheduler, router, status, nobody, node_id="n", default_model="m"
    )
    health = HealthService(status, trio.Event())
    return own(beside(framework, build_services(inference, health, place.emitted.append)))


@asynccontextmanager
async def open_api(children: Children) -> AsyncIterator[tuple[Place, MemoryChild, Any]]:
    """Serve one model in memory."""
    async with open_place(children) as (place, child), trio.open_nursery() as nursery:
        router = Router(
            place.scheduler,
            NoPeers(),
            PeerClient(SIGNER, PeerTrust()),
            place.emitted.append,
            strict_guard(),
        )
        await nursery.start(router.run)
        yield place, child, application(place, router)
        nursery.cancel_scope.cancel()


class Client:
    """One client's exchange, as a server passes it to the application."""

    def __init__(self, how: str) -> None:
        self.left = trio.Event()
        self.stuck = trio.Event()
        """Set when the application sends the message that the client does not take."""
        self._stuck_at = ""
        self._body, self._scope = _exchange(how)
        self._has_sent = False

    async def ask(self, app: Any, stuck_at: str) -> None:
        """Send the request. Ends with the exchange.

        Args:
            app: The application.
            stuck_at: The kind of the first message that the client does not take.
        """
        self._stuck_at = stuck_at
        await app(self._scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if not self._has_sent:
            self._has_sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == self._stuck_at:
            self.stuck.set()
            await trio.sleep_forever()


def _exchange(how: str) -> tuple[bytes, dict[str, Any]]:
    """Return a request: its body and its ASGI scope."""
    version, kind = how.split()
    headers = [(b"host", b"node")]
    path, body = "/v1/completions", json.dumps(ASKED | {"stream": kind == "stream"}).encode()
    if version == "gRPC":
        path = GRPC + ("GenerateStream" if kind == "stream" else "Generate")
        text = json.dumps({"prompt": "p", "maxTokens": 7}).encode()
        body = b"\0" + len(text).to_bytes(4, "big") + text
        headers += [(b"content-type", b"application/grpc+json"), (b"te", b"trailers")]
    elif kind == "forwarded":
        path, body = wire.PATH, wire.pack_request(_forwarded())
        headers += [(wire.SIGNATURE.encode(), SIGNER.sign(body, time.time()).encode())]
    else:
        headers += [(b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1" if version == "HTTP/1.1" else "2",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("192.0.2.1", 4711),
        "server": ("192.0.2.2", 80),
        "extensions": {"http.response.trailers": {}},
    }
    return body, scope


def _forwarded() -> InferenceRequest:
    sampling = Sampling(0, 1, 1, 1, 1)
    return InferenceRequest(
        model_id="m", prompt="p", max_tokens=7, sampling=sampling, forwarded=True
    )


STREAMS: Final = ("HTTP/1.1 stream", "HTTP/2 stream", "HTTP/2 forwarded", "gRPC stream")
ALL: Final = (*STREAMS, "HTTP/1.1 whole", "HTTP/2 whole", "gRPC whole")


@pytest.mark.parametrize("how", ALL)
@trio_test
async def test_client_that_leaves_the_queue_leaves_no_request(
    autojump_clock: MockClock, children: Children, how: str
) -> None:
    """A client that leaves before its response starts leaves no request in the queue."""
    del autojump_clock
    async with open_api(children) as (place, child, app), trio.open_nursery() as nursery:
        served = place.admit()
        assert await child.hear_generate() == served.identity
        client = Client(how)
        nursery.start_soon(client.ask, app, "")
        await wait_all_tasks_blocked()
        assert place.lane.load().queued == 1
        client.left.set()
        await wait_all_tasks_blocked()
        assert place.lane.load().queued == 0
        assert place.statuses == ([] if "forwarded" in how else ["cancelled"])


@pytest.mark.parametrize("stuck_at", ["http.response.start", "http.response.body"])
@pytest.mark.parametrize("how", STREAMS)
@trio_test
async def test_client_that_leaves_as_the_response_starts_stops_the_engine(
    autojump_clock: MockClock, children: Children, how: str, stuck_at: str
) -> None:
    """A client that leaves between admission and the first byte stops the engine."""
    del autojump_clock
    async with open_api(children) as (place, child, app), trio.open_nursery() as nursery:
        client = Client(how)
        nursery.start_soon(client.ask, app, stuck_at)
        identity = await child.hear_generate()
        await child.say_tokens(identity, "one")
        await client.stuck.wait()
        client.left.set()
        assert await child.hear_cancel() == identity
        await child.finish(identity, "cancelled")
        assert place.lane.idle
        assert place.statuses == ["cancelled"]
        counts = [one.count for one in place.emitted if isinstance(one, TokensGenerated)]
        assert counts == [1]


@pytest.mark.parametrize("how", ALL)
@trio_test
async def test_request_whose_task_is_cancelled_is_given_up(
    autojump_clock: MockClock, children: Children, how: str
) -> None:
    """When the task that answers is cancelled, its request ends."""
    del autojump_clock
    async with open_api(children) as (place, child, app):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Client(how).ask, app, "")
            identity = await child.hear_generate()
            nursery.cancel_scope.cancel()
        assert await child.hear_cancel() == identity
        await child.finish(identity, "cancelled")
        assert place.statuses == ["cancelled"]
