"""Workers are lent through tunnels: to nodes of the mesh only, and only while both ends live."""

import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
import trio
import trustme
from trio.testing import trio_test

from node.pipeline.messages import (
    PATH,
    PROTOCOL,
    SWITCHED,
    Claiming,
    Control,
    Ready,
    Refused,
    pack_request,
)
from node.pipeline.remote import Tunnels
from node.pipeline.tunnel import TunnelRefusedError
from node.routing import wire
from node.routing.client import PeerLostError
from node.routing.signature import Signer
from node.routing.trust import PeerTrust
from shared.events.mesh import NetworkFailed
from shared.events.pipelines import WorkerEnded, WorkerRefused, WorkersLent
from tests.tunnels import (
    LIMIT_SECONDS,
    ROOM_BYTES,
    SECRET,
    Lending,
    claim,
    connect,
    fake_build,
    lending,
    shout,
    wait_reset,
)

TEXT = bytes(range(ord("a"), ord("z"))) * 40_000
"""A megabyte, like the logits of a token."""


def worker_of(lent: Lending, pipeline_id: str = "p1") -> int:
    """Return the process id of a pipeline's worker."""
    worker = lent.lender._leases[pipeline_id].worker
    assert worker is not None
    return worker.pid


async def wait_for(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - files and processes
        await trio.sleep(0.01)


def request(body: bytes, **headers: str) -> bytes:
    """Return the request that opens a tunnel's connection."""
    fields = {
        "Host": "x",
        "Connection": "Upgrade",
        "Upgrade": PROTOCOL,
        wire.SIGNATURE: Signer((SECRET,)).sign(body, time.time()),
        "Content-Length": str(len(body)),
    } | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {PATH} HTTP/1.1\r\n{head}\r\n".encode() + body


@asynccontextmanager
async def sent(lent: Lending, asked: bytes) -> AsyncIterator[tuple[trio.SocketStream, bytes]]:
    """Send a request on a new connection. Yield the connection and the answer's first line."""
    async with await connect(lent.url.removeprefix("http://")) as stream:
        await stream.send_all(asked)
        answer = b""
        while b"\r\n\r\n" not in answer:
            received = await stream.receive_some(len(SWITCHED))
            assert received
            answer += received
        yield stream, answer.partition(b"\r\n")[0]


@pytest.mark.parametrize(
    ("names", "wanted"), [([], ""), (["127.0.0.1"], ""), (["nodes.example"], "nodes.example")]
)
@trio_test
async def test_bytes_pass_both_ways(tmp_path: Path, names: list[str], wanted: str) -> None:
    """A worker answers through a tunnel, plain and over TLS, one client after the other."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert(*names) if names else None
    trust = PeerTrust(tmp_path / "ca.pem", wanted)
    async with (
        lending(tmp_path, certificate=certificate) as lent,
        lent.tunnels(trust=trust).open(lent.url, claim()) as tunnel,
    ):
        for _ in range(2):
            async with await connect(tunnel.endpoint) as client:
                assert await shout(client, b"hello") == b"HELLO"
                assert await shout(client, TEXT) == TEXT.upper()
        hops: list[float] = []
        traffic = tunnel.take_traffic()
        assert traffic.sent_bytes == traffic.received_bytes == 2 * (len(TEXT) + len(b"hello"))
        while not hops:
            hops += tunnel.take_traffic().hop_seconds
            await trio.sleep(0.01)
        assert 0 < hops[0] < LIMIT_SECONDS


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"memory_bytes": 3 * ROOM_BYTES}, "memory", "need 3.00 GiB and 1.00 GiB are free"),
        ({"build": "8 (def)"}, "build", "the worker's build is '7 (abc)', the pipeline's '8"),
        ({"node_id": "other"}, "failed", "this node is lender"),
        ({"pipeline_id": "p1"}, "busy", "the node lends 1 of 2 workers"),
    ],
)
@trio_test
async def test_claim_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], reason: str, message: str
) -> None:
    """A claim that cannot be granted is refused, and what is lent already stays."""
    async with lending(tmp_path) as lent, lent.tunnels().open(lent.url, claim()) as tunnel:
        with pytest.raises(TunnelRefusedError, match=re.escape(message)) as caught:
            async with lent.tunnels().open(lent.url, claim(**{"pipeline_id": "p2"} | changes)):
                pass
        assert caught.value.reason == reason
        async with await connect(tunnel.endpoint) as client:
            assert await shout(client, b"on") == b"ON"


@trio_test
async def test_claims_share_the_memory_and_the_places(tmp_path: Path) -> None:
    """What is promised to one pipeline is not promised to another, nor are there more places."""
    most = claim("p1", memory_bytes=ROOM_BYTES - 2**20)
    async with lending(tmp_path) as lent, AsyncExitStack() as stack:
        open_tunnel = lent.tunnels().open
        await stack.enter_async_context(open_tunnel(lent.url, most))
        with pytest.raises(TunnelRefusedError, match="are free"):
            await stack.enter_async_context(open_tunnel(lent.url, claim("p2", memory_bytes=2**29)))
        await stack.enter_async_context(open_tunnel(lent.url, claim("p2")))
        with pytest.raises(TunnelRefusedError, match="lends 2 of 2 workers"):
            await stack.enter_async_context(open_tunnel(lent.url, claim("p3")))
    assert [e.reason for e in lent.events if isinstance(e, WorkerRefused)] == ["memory", "busy"]


@trio_test
async def test_worker_that_does_not_start_is_a_refusal(tmp_path: Path) -> None:
    """The coordinator reads what the program printed, even if it arrives after its end."""
    program = "#!/bin/sh\n(sleep 0.05; echo no library >&2) &\nexit 1\n"
    build = fake_build(tmp_path / "build", program)
    async with lending(tmp_path, build) as lent:
        with pytest.raises(TunnelRefusedError, match="no library") as caught:
            async with lent.tunnels().open(lent.url, claim()):
                pass
        assert caught.value.reason == "failed"


@trio_test
async def test_replaced_program_is_another_build(tmp_path: Path) -> None:
    """Between an upgrade and the next look at it, nothing is lent."""
    async with lending(tmp_path) as lent:
        (tmp_path / "build/ggml-rpc-server").touch()
        with pytest.raises(TunnelRefusedError, match="has just been replaced"):
            async with lent.tunnels().open(lent.url, claim()):
                pass


@trio_test
async def test_stranger_gets_nothing(tmp_path: Path) -> None:
    """Without the secret no worker starts; the attempt is counted."""
    async with lending(tmp_path) as lent:
        with pytest.raises(TunnelRefusedError, match="not signed by a node") as caught:
            async with lent.tunnels("another secret of a mesh").open(lent.url, claim()):
                pass
        assert caught.value.reason == "unauthenticated"
        assert lent.events == [
            NetworkFailed("unauthenticated", 1),
            WorkerRefused("unauthenticated"),
        ]


@trio_test
async def test_request_is_accepted_once(tmp_path: Path) -> None:
    """A copy of a granted request is refused and counted, also once the first is over."""
    async with lending(tmp_path) as lent:
        recorded = request(pack_request(Claiming(claim(), b"n" * 16)))
        async with sent(lent, recorded) as (_, status):
            assert status == SWITCHED.partition(b"\r\n")[0]
        await wait_for(lambda: WorkersLent(0) in lent.events)
        async with sent(lent, recorded) as (_, status):
            assert status.startswith(b"HTTP/1.1 401 ")
        assert lent.events[-2:] == [
            NetworkFailed("unauthenticated", 1),
            WorkerRefused("unauthenticated"),
        ]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, b"400"),
        (b"\x93" * 40, {}, b"400"),
        (pack_request(Claiming(claim(), b"n" * 16)), {"Upgrade": "h3"}, b"426"),
        (pack_request(Claiming(claim(), b"n" * 16)), {wire.SIGNATURE: "1.ff"}, b"401"),
    ],
)
@trio_test
async def test_odd_request_is_refused(
    tmp_path: Path, body: bytes, headers: dict[str, str], status: bytes
) -> None:
    """A request that is no claim, or does not leave HTTP, gets an error and no worker."""
    async with lending(tmp_path) as lent:
        async with sent(lent, request(body, **headers)) as (_, line):
            assert line.split()[1] == status
        assert not lent.lender._leases


@pytest.mark.parametrize(
    ("number", "loss"), [(signal.SIGKILL, "ended"), (signal.SIGSTOP, "frozen")]
)
@trio_test
async def test_lost_worker_resets_its_client(
    tmp_path: Path, number: int, loss: Literal["ended", "frozen"]
) -> None:
    """The coordinator learns at once why, and llama-server's connection is reset."""
    async with lending(tmp_path) as lent, lent.tunnels().open(lent.url, claim()) as tunnel:
        async with await connect(tunnel.endpoint) as client:
            assert await shout(client, b"hello") == b"HELLO"
            os.kill(worker_of(lent), number)
            assert await tunnel.wait_lost() == loss
            await wait_reset(client)
        with pytest.raises(OSError):  # noqa: PT011 - any: nothing listens
            await connect(tunnel.endpoint)
        await wait_for(lambda: WorkerEnded(loss) in lent.events)


@trio_test
async def test_draining_node_takes_its_workers_back(tmp_path: Path) -> None:
    """Coordinators are told; the worker ends, and no other is lent."""
    async with lending(tmp_path) as lent, lent.tunnels().open(lent.url, claim()) as tunnel:
        async with await connect(tunnel.endpoint) as client:
            assert await shout(client, b"hello") == b"HELLO"
            lent.lender.drain()
            assert await tunnel.wait_lost() == "draining"
            await wait_reset(client)
        assert lent.lender.build == ""
        with pytest.raises(TunnelRefusedError, match="stopping"):
            async with lent.tunnels().open(lent.url, claim("p2")):
                pass


@trio_test
async def test_worker_ends_with_its_lease(tmp_path: Path) -> None:
    """When the coordinator closes the tunnel, the worker ends and its place is free."""
    async with lending(tmp_path, places=1) as lent:
        for number in range(3):
            async with lent.tunnels().open(lent.url, claim(f"p{number}")):
                process_id = worker_of(lent, f"p{number}")
            await wait_for(lambda: WorkersLent(0) == lent.events[-1])
            assert not Path(f"/proc/{process_id}").exists()
        assert lent.events.count(WorkerEnded("released")) == 3


@trio_test
async def test_silent_coordinator_loses_its_lease(tmp_path: Path) -> None:
    """A coordinator that is frozen or cut off keeps no worker: its heartbeat is missing."""
    asked = request(pack_request(Claiming(claim(), b"n" * 16)))
    async with lending(tmp_path) as lent, sent(lent, asked) as (stream, _):
        control = Control(stream)
        assert isinstance(await control.receive(LIMIT_SECONDS), Ready)
        await wait_for(lambda: WorkersLent(0) in lent.events)
        assert WorkerEnded("released") in lent.events


@trio_test
async def test_silent_lender_is_frozen(tmp_path: Path) -> None:
    """A node that stops to answer the heartbeat is lost, even while its connections stand."""
    async with lending(tmp_path) as lent:
        frozen = trio.Event()

        async def pass_until_frozen(stream: trio.SocketStream) -> None:
            async with await connect(lent.url.removeprefix("http://")) as lender:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_copy, stream, lender)
                    nursery.start_soon(_copy, lender, stream)
                    await frozen.wait()
                    nursery.cancel_scope.cancel()
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, pass_until_frozen, [listener])
            url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
            async with (
                lent.tunnels().open(url, claim()) as tunnel,
                await connect(tunnel.endpoint) as client,
            ):
                assert await shout(client, b"hello") == b"HELLO"
                frozen.set()
                assert await tunnel.wait_lost() == "frozen"
                await wait_reset(client)
            nursery.cancel_scope.cancel()


async def _copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    async for received in source:
        await sink.send_all(received)


@trio_test
async def test_refusal_that_comes_with_the_response_is_read() -> None:
    """The network may deliver the first message together with the response 101."""
    packed = msgspec.msgpack.encode(Refused("memory", "too little"))

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(SWITCHED + len(packed).to_bytes(4, "big") + packed)
            await trio.sleep_forever()

    with trio.fail_after(LIMIT_SECONDS):
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
            with pytest.raises(TunnelRefusedError, match="too little"):
                async with Tunnels(Signer((SECRET,)), PeerTrust()).open(url, claim()):
                    pass
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"nonsense\r\n\r\n",
        SWITCHED + b"\xff" * 64,
        SWITCHED + b"\0\0\0\1x",
        SWITCHED,
    ],
)
@trio_test
async def test_peer_that_speaks_no_tunnels_is_lost(answer: bytes) -> None:
    """Whatever answers in place of a node, the coordinator gets one of its two errors."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(answer)

    with trio.fail_after(LIMIT_SECONDS):
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
            with pytest.raises((PeerLostError, TunnelRefusedError)):
                async with Tunnels(Signer((SECRET,)), PeerTrust()).open(url, claim()):
                    pass
            nursery.cancel_scope.cancel()
