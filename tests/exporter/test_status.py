"""`/status` and `/status/stream`: their content, their access, and slow readers."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import trio
from trio.testing import MockClock, trio_test

from exporter.ingest.batches import Accepted, Ingest, decode_batch
from exporter.journal.opening import open_store
from exporter.journal.store import Store
from exporter.metrics.nodes import Session
from exporter.metrics.state import ENDED_KEPT, State
from exporter.status import snapshot as s
from exporter.status.status import Status
from exporter.web import server, stream
from exporter.web.access import Access
from exporter.web.collectors import Collectors
from exporter.web.health import HealthChecks
from exporter.web.server import Application
from exporter.web.web_file import Web
from shared.events.engine import EngineProgressed
from shared.events.event import Event
from shared.events.mesh import PeerChanged, PeerForgotten, PeerPage
from shared.events.models import ModelDescribed, ModelLoadProgressed
from shared.events.node import NodeStateChanged
from shared.events.requests import LoadChanged
from shared.runtime.http.server import Endpoint
from shared.secret import BearerTokens
from tests.builders import every_event, finished, pack_batch
from tests.guards import strict_guard

SILENCE_SECONDS: Final = 30.0
TOKEN: Final = "a-token-of-an-operator"
_decoder = msgspec.json.Decoder(s.Snapshot)


class Exporter:
    """An exporter without disk and node."""

    def __init__(self, tokens: BearerTokens | None = None) -> None:
        self.ingest = Ingest(State(), timeout_seconds=2.5)
        self.store = Store(self.ingest, Path("none"), None, "there is no disk in these tests")
        self.health = HealthChecks(self.store, SILENCE_SECONDS, strict_guard())
        self.status = Status(self.store.state, self.health.last_report, SILENCE_SECONDS)
        self.application = Application(
            self.store,
            self.health,
            self.status,
            Access(tokens, Web),
            Collectors({}, self.store),
        )

    def hear(self, *happened: Event, **fields: Any) -> None:
        """Take a batch now."""
        accepted = decode_batch(pack_batch(*happened, **fields))
        assert isinstance(accepted, Accepted)
        self.ingest.count(accepted, trio.current_time(), 1.6e9)

    def shown(self) -> s.Snapshot:
        """Return the picture as its readers decode it."""
        return _decoder.decode(self.status.current())


class Client:
    """Sends requests to one port, each on its own connection."""

    def __init__(self, port: int, closing: AsyncExitStack) -> None:
        self._port = port
        self._closing = closing

    async def ask(self, path: str, *headers: str, method: str = "GET") -> trio.SocketStream:
        """Send a request and return the connection."""
        client = await trio.open_tcp_stream("127.0.0.1", self._port)
        await self._closing.enter_async_context(client)
        lines = (f"{method} {path} HTTP/1.1", "host: x", *headers, "", "")
        await client.send_all("\r\n".join(lines).encode())
        return client


@asynccontextmanager
async def serving(exporter: Exporter) -> AsyncIterator[Client]:
    """Serve on a port."""
    endpoint = Endpoint(host="127.0.0.1", port=0, connections=64, reader_seconds=30)
    async with trio.open_nursery() as nursery:
        url = await nursery.start(server.serve, exporter.application, endpoint, strict_guard())
        with trio.fail_after(60):
            async with AsyncExitStack() as closing:
                yield Client(int(url.rpartition(":")[2]), closing)
        nursery.cancel_scope.cancel()


async def read_until(client: trio.SocketStream, end: bytes) -> bytes:
    """Return what came up to some bytes, or all if the connection ends before."""
    read = b""
    while end not in read and (some := await client.receive_some()):
        read += some
    return read


@trio_test
async def test_picture_holds_every_figure(autojump_clock: MockClock) -> None:
    """Every number of a busy node is in the picture."""
    del autojump_clock
    exporter = Exporter()
    exporter.status._history.sample(trio.current_time())
    exporter.hear(ModelDescribed("m", "llama", "Q8_0", "ctransformers", 2**24, 8))
    exporter.status._history.sample(trio.current_time())
    await trio.sleep(5)
    emitted = len(every_event()) + 5
    exporter.hear(*every_event()[:-1], first=2, emitted=emitted, dropped={"buffer_full": 3})
    [node] = exporter.shown().nodes
    assert (node.node_id, node.up, node.state, node.version) == ("n1", True, "online", "0.1.0")
    assert node.uptime_seconds == 9.5
    assert node.traffic.tokens_per_second == 1 / 5
    assert node.traffic.ended == {"ok": 1, "error": 0, "timeout": 0, "cancelled": 0, "rejected": 0}
    assert (node.traffic.queued, node.traffic.slots_busy, node.traffic.slots_total) == (1, 1, 1)
    assert node.traffic.first_token.p50_seconds == 0.75
    assert node.machine.engine_bytes == 2**21
    assert node.peers == [s.Peer(node_id="n2", status="busy", page_url="http://192.0.2.2:9090")]
    applied, dropped = len(every_event()), 3
    assert node.telemetry == s.Proof(
        emitted=emitted,
        applied=applied,
        dropped=dropped,
        lost=emitted - applied - dropped,
        lag_seconds=0.0,
    )


@trio_test
async def test_page_of_a_peer_is_a_web_address_and_goes_with_the_peer() -> None:
    """A peer cannot place a script in a link, and a forgotten peer leaves no address."""
    exporter = Exporter()
    exporter.hear(
        PeerChanged("n2", "alive", "online"),
        PeerPage("n2", "javascript:alert(1)"),
        PeerPage("never-seen", "http://192.0.2.9:9090"),
    )
    [node] = exporter.shown().nodes
    assert [peer.page_url for peer in node.peers] == [""]
    exporter.hear(PeerForgotten("n2"), first=4)
    assert exporter.store.state.nodes["n1"].pages == {}


@trio_test
async def test_models_are_loaded_loading_or_known(autojump_clock: MockClock) -> None:
    """A model's state comes from its levels; a stall needs work without progress for too long."""
    del autojump_clock
    exporter = Exporter()
    exporter.hear(
        ModelDescribed("a", "llama", "Q8_0", "ctransformers", 2**24, 8),
        EngineProgressed("a", 1.5e9, SILENCE_SECONDS + 1),
        ModelLoadProgressed("b", "download", 1, 4),
        LoadChanged("c", 0, 0, 0, 1),
    )
    [node] = exporter.shown().nodes
    told = [(m.model_id, m.state, m.load_ratio, m.stalled) for m in node.models]
    assert told == [
        ("a", "loaded", None, True),
        ("b", "loading", 0.25, False),
        ("c", "unloaded", None, False),
    ]


@trio_test
async def test_problems_are_those_of_the_health_checks_and_lost_events() -> None:
    """What `/health` complains about is shown in the same words, and lost events beside it."""
    exporter = Exporter()
    await exporter.health.report()
    assert exporter.shown().health == "failed"
    assert "events: no node has reported" in exporter.shown().problems
    exporter = Exporter()
    exporter.store.state.storage.durable = True
    exporter.hear(NodeStateChanged("online"), emitted=4)
    shown = exporter.shown()
    assert (shown.health, shown.problems) == ("degraded", ["node n1: 3 telemetry events were lost"])


@trio_test
async def test_last_requests_are_bounded_and_newest_first() -> None:
    """The picture holds the last requests with what identifies them, and nothing else of them."""
    exporter = Exporter()
    named = [
        msgspec.structs.replace(finished(), request_id=f"r\ud800{number}")
        for number in range(ENDED_KEPT + 3)
    ]
    for number, event in enumerate(named):
        node = exporter.store.state.node("n1")
        node.heard_time = float(number)
        exporter.store.state.apply(node, Session("s1"), [event])
    requests = exporter.shown().requests
    assert len(requests) == ENDED_KEPT
    assert [request.at for request in requests[:2]] == [ENDED_KEPT + 2, ENDED_KEPT + 1]
    assert requests[0].request_id == f"r\ufffd{ENDED_KEPT + 2}"
    assert requests[0].tokens_per_second == 5 / 1.25


@trio_test
async def test_requests_read_back_from_the_journal_are_not_shown(tmp_path: Path) -> None:
    """After a restart the counts are back, and the list of requests begins empty."""
    with trio.fail_after(30):
        for expected in (1, 0):
            store = open_store(tmp_path, State, 2.5)
            assert len(store.state.ended) == 0
            if expected:
                await store.take(pack_batch(finished()), 1, lambda: ())
                assert len(store.state.ended) == 1
            store.close()


@trio_test
async def test_picture_is_drawn_once_a_second(autojump_clock: MockClock) -> None:
    """However many read, the picture is drawn at most once a second."""
    del autojump_clock
    exporter = Exporter()
    first = exporter.status.current()
    exporter.hear(NodeStateChanged("online"))
    assert exporter.status.current() is first
    await trio.sleep(1)
    assert len(exporter.shown().nodes) == 1


@trio_test
async def test_status_needs_the_token_and_the_page_does_not() -> None:
    """Status and stream are as closed as `/metrics`; the page's files hold nothing secret."""
    exporter = Exporter(BearerTokens([TOKEN]))
    async with serving(exporter) as client:
        for path in ("/status", "/status/stream"):
            answer = await read_until(await client.ask(path), b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 401"), path
            known = await client.ask(path, f"authorization: Bearer {TOKEN}")
            assert (await read_until(known, b"nodes")).startswith(b"HTTP/1.1 200"), path
        page = await read_until(await client.ask("/"), b"</html>")
        assert page.startswith(b"HTTP/1.1 200")
        assert b"content-security-policy: default-src 'self';" in page


@trio_test
async def test_stream_sends_an_event_a_second_and_ends_with_its_reader() -> None:
    """Each event is a whole snapshot; a reader that leaves frees its place."""
    exporter = Exporter()
    async with serving(exporter) as client:
        reader = await client.ask("/status/stream")
        read = await read_until(reader, b"data: ")
        assert b"content-type: text/event-stream" in read
        for _ in range(2):
            await read_until(reader, b"\n\n")
        room = exporter.application._streams._room
        assert room.borrowed_tokens == 1
        await reader.aclose()
        while room.borrowed_tokens:  # noqa: ASYNC110 - has no event
            await trio.sleep(0.01)


@trio_test
async def test_streams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stream too many is refused with 503, and scrapes are answered meanwhile."""
    monkeypatch.setattr(stream, "STREAMS", 1)
    exporter = Exporter()
    async with serving(exporter) as client:
        await read_until(await client.ask("/status/stream"), b"data: ")
        refused = await read_until(await client.ask("/status/stream"), b"streams\n")
        assert refused.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 10" in refused
        assert (await read_until(await client.ask("/metrics"), b"\r\n")).startswith(b"HTTP/1.1 200")


@trio_test
async def test_reader_that_stops_reading_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that nobody reads ends with its connection, and its place is free again."""
    monkeypatch.setattr(stream, "READER_SECONDS", 0.2)
    monkeypatch.setattr(stream, "PICTURE_SECONDS", 0.0)
    exporter = Exporter()
    monkeypatch.setattr(exporter.status, "current", lambda: bytes(2**18))
    async with serving(exporter) as client:
        await client.ask("/status/stream")
        room = exporter.application._streams._room
        with trio.fail_after(60):
            while not room.borrowed_tokens:  # noqa: ASYNC110 - has no event
                await trio.sleep(0.01)
            while room.borrowed_tokens:  # noqa: ASYNC110 - has no event
                await trio.sleep(0.01)


@trio_test
async def test_stream_ends_after_its_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream ends by itself in order, so that its reader shows its credentials again."""
    monkeypatch.setattr(stream, "LIFE_SECONDS", 0.0)
    async with serving(Exporter()) as client:
        reader = await client.ask("/status/stream", "connection: close")
        assert (await read_until(reader, b"0\r\n\r\n")).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("path", ["/status", "/status/stream", "/", "/pages/base.css"])
@trio_test
async def test_head_has_no_body(path: str) -> None:
    """HEAD is answered like GET, without the body and without opening a stream."""
    async with serving(Exporter()) as client:
        reader = await client.ask(path, "connection: close", method="HEAD")
        assert (await read_until(reader, b"never")).endswith(b"\r\n\r\n")
