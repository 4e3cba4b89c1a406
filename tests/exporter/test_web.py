"""The exporter's HTTP responses, from the application itself."""

import contextlib
import gzip
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from trio.testing import MockClock, trio_test

from exporter.ingest.batches import Accepted, Ingest, decode_batch
from exporter.journal.store import Store
from exporter.metrics.catalogue.health import HEALTH_CHECKS
from exporter.metrics.cut import take_cut
from exporter.metrics.state import State
from exporter.status.status import Status
from exporter.web import server
from exporter.web.access import Access
from exporter.web.collectors import Collectors
from exporter.web.health import HealthChecks
from exporter.web.server import Application
from exporter.web.web_file import Web
from shared.events.api import HttpFinished
from shared.events.engine import EngineProgressed
from shared.events.event import Event
from shared.events.node import NodeStarted, NodeState, NodeStateChanged
from shared.runtime.guard import Guard
from shared.runtime.http.connection import CONNECTION, Connection
from shared.runtime.http.server import Endpoint
from tests.builders import every_event, pack_batch
from tests.guards import strict_guard

ENGINE_SILENCE_SECONDS = 30.0
TIMEOUT_SECONDS = 2.5
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@dataclass
class Answer:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


class _Api(BaseHTTPRequestHandler):
    """A fake of the node's API; it is healthy by default."""

    status = 200
    body = b""

    def do_GET(self) -> None:
        """Answer any path."""
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Log nothing."""


@pytest.fixture(scope="module", autouse=True)
def api_url() -> Iterator[str]:
    """The URL of the node's API in these tests."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Api) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        Exporter.api_url = f"http://127.0.0.1:{server.server_port}"
        yield Exporter.api_url
        server.shutdown()
        serving.join()


class Exporter:
    """An exporter without sockets, whose nodes have an API that answers."""

    api_url = ""

    def __init__(self) -> None:
        self.connection_state: dict[str, Any] = {}
        """The application as the server gets it."""
        self.failed: list[str] = []
        """Counts of unexpected errors by part."""
        self.ingest = Ingest(State(), TIMEOUT_SECONDS)
        self.store = Store(self.ingest, Path("none"), None, "there is no disk in these tests")
        self.store.state.storage.durable = True
        self.health = HealthChecks(self.store, ENGINE_SILENCE_SECONDS, Guard(self.failed.append))
        self.status = Status(self.store.state, self.health.last_report, ENGINE_SILENCE_SECONDS)
        self.application = Application(
            self.store,
            self.health,
            self.status,
            Access(None, Web),
            Collectors({}, self.store),
        )

    async def ask(self, path: str, method: str = "GET", query: str = "", **headers: str) -> Answer:
        """Send one request; `accept_encoding` is the header `Accept-Encoding`."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError("no body is asked for")

        scope = {
            "type": "http",
            "state": self.connection_state,
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [
                (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
            ],
        }
        await self.application(scope, receive, send)
        start, *bodies = sent
        assert start["type"] == "http.response.start"
        assert [body.get("more_body", False) for body in bodies] == [
            *[True] * (len(bodies) - 1),
            False,
        ]
        named = {name.decode(): value.decode() for name, value in start["headers"]}
        assert len(named) == len(start["headers"])
        return Answer(start["status"], named, b"".join(body["body"] for body in bodies))

    def hear(self, *happened: Event, first: int = 1, **fields: Any) -> None:
        """Take a batch now."""
        accepted = decode_batch(pack_batch(*happened, first=first, **fields))
        assert isinstance(accepted, Accepted)
        self.ingest.count(accepted, trio.current_time(), 1.6e9)
        node = self.store.state.nodes["n1"]
        node.api_url = node.api_url or self.api_url


@trio_test
async def test_metrics_are_served() -> None:
    """A plain request gets the text format with its length."""
    exporter = Exporter()
    exporter.hear(*every_event()[:-1])
    answer = await exporter.ask("/metrics")
    assert (answer.status, answer.headers["content-type"]) == (200, TEXT)
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert b'distributed_llm_node_status{node_id="n1"} 1.0\n' in answer.body
    assert "content-encoding" not in answer.headers
    assert answer.headers["vary"] == "accept, accept-encoding"


@trio_test
async def test_scrape_is_measured() -> None:
    """The duration of a scrape is in the next one."""
    exporter = Exporter()
    await exporter.ask("/metrics")
    await exporter.store.tick(trio.current_time())
    answer = await exporter.ask("/metrics")
    assert b"distributed_llm_exporter_scrape_duration_seconds_count 1.0\n" in answer.body


@pytest.mark.parametrize("path", ["/metrics", "/health", "/readyz", "/livez", "/nothing"])
@trio_test
async def test_head_is_get_without_its_body(path: str) -> None:
    """HEAD has the status and the headers of GET, and no body."""
    exporter = Exporter()
    got, headed = await exporter.ask(path), await exporter.ask(path, "HEAD")
    assert (headed.status, headed.body) == (got.status, b"")
    assert headed.headers["content-type"] == got.headers["content-type"]
    assert int(headed.headers["content-length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get", "TRACE"])
@trio_test
async def test_other_methods_are_refused(method: str) -> None:
    """Other methods are refused."""
    answer = await Exporter().ask("/metrics", method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["//", "", "/metrics/", "/Metrics", "/metrics/x", "/health/../x"])
@trio_test
async def test_other_path_is_not_found(path: str) -> None:
    """An unknown path is answered with the paths that exist."""
    answer = await Exporter().ask(path)
    assert answer.status == 404
    assert b"/metrics" in answer.body


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        ("text/html", TEXT),
        ("application/openmetrics-text;version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text;version=2.0.0,text/plain;q=0.1", OPENMETRICS),
        ("application/vnd.google.protobuf,application/openmetrics-text;q=0.6", OPENMETRICS),
        ("Application/OpenMetrics-Text; version=1.0.0; Q=0.5, text/plain; q=0.2", OPENMETRICS),
        ("text/plain;version=0.0.4;q=0.6,application/openmetrics-text;q=0.5,*/*;q=0.1", TEXT),
        ("text/plain, application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=0.000", TEXT),
        ("application/openmetrics-text;q=high", TEXT),
        ("application/openmetrics-textual", TEXT),
        ("application/openmetrics-text;q=0.1,text/*,application/openmetrics-text", OPENMETRICS),
    ],
)
@trio_test
async def test_format_is_negotiated(accept: str, content_type: str) -> None:
    """OpenMetrics is sent only if the client prefers it, labelled 1.0 for any version."""
    answer = await Exporter().ask("/metrics", accept=accept)
    assert answer.headers["content-type"] == content_type
    assert answer.body.endswith(b"# EOF\n") == (content_type == OPENMETRICS)


@pytest.mark.parametrize(
    ("codings", "compressed"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("br, gzip;q=0.5", True),
        ("gzip ; q=1.0", True),
        ("", False),
        ("identity", False),
        ("br, xgzip", False),
        ("gzip;q=0", False),
        ("gzip; q=0.0", False),
        ("gzip;q=0.000", False),
        ("gzip;\tq=0", False),
    ],
)
@trio_test
async def test_compression_is_negotiated(codings: str, *, compressed: bool) -> None:
    """Gzip is sent only if the client accepts it."""
    answer = await Exporter().ask("/metrics", accept_encoding=codings)
    assert (answer.headers.get("content-encoding") == "gzip") == compressed
    text = gzip.decompress(answer.body) if compressed else answer.body
    assert text.startswith(b"# HELP")
    assert int(answer.headers["content-length"]) == len(answer.body)


@trio_test
async def test_names_restrict_the_answer() -> None:
    """`name[]` may be repeated and percent-encoded."""
    exporter = Exporter()
    exporter.hear()
    wanted = "name[]=distributed_llm_node_up&name%5B%5D=distributed_llm_node_status"
    answer = await exporter.ask("/metrics", query=wanted)
    shown = {line.partition("{")[0] for line in answer.body.decode().splitlines() if line[0] != "#"}
    assert shown == {"distributed_llm_node_up", "distributed_llm_node_status"}


@trio_test
async def test_concurrent_scrapes_are_all_answered() -> None:
    """Scrapes beyond the limit of concurrent renderings wait and are answered."""
    exporter = Exporter()
    exporter.hear(*every_event()[:-1])
    answers: list[Answer] = []

    async def scrape() -> None:
        answers.append(await exporter.ask("/metrics"))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(scrape)
    assert [answer.status for answer in answers] == [200] * 8


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut readers early, and allow one scrape in memory at a time."""
    monkeypatch.setattr(server, "_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(server, "_SCRAPES", 1)


def _ask_over_http_2() -> bytes:
    """Request `/metrics` without letting any of the response through."""
    client = H2Connection(H2Configuration(client_side=True))
    client.local_settings = Settings(
        client=True, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: 0}
    )
    client.initiate_connection()
    asked = {"method": "GET", "path": "/metrics", "scheme": "http", "authority": "x"}
    client.send_headers(1, [(f":{name}", value) for name, value in asked.items()], end_stream=True)
    return client.data_to_send()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("version", ["1.1", "2"])
@trio_test
async def test_scraper_that_never_reads_is_cut(version: str) -> None:
    """Scrapers that do not read are bounded in number and time, and others are answered."""
    exporter = Exporter()
    routes = [HttpFinished(f"/{number}", "GET", 200, 1.0) for number in range(9_000)]
    exporter.hear(*routes)
    question = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"
    endpoint = Endpoint(host="127.0.0.1", port=0, connections=16, reader_seconds=30)
    async with trio.open_nursery() as nursery:
        url = await nursery.start(server.serve, exporter.application, endpoint, strict_guard())
        with trio.fail_after(20), trio.socket.socket() as client:
            client.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
            await client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
            await client.send(_ask_over_http_2() if version == "2" else question)
            while exporter.application._scrapes.available_tokens:  # noqa: ASYNC110 - has no event
                await trio.sleep(0.01)
            assert (await exporter.ask("/livez")).status == 200
            assert (await exporter.ask("/metrics")).status == 200  # once the first is cut
            with contextlib.suppress(ConnectionError):
                while await client.recv(2**20):
                    pass
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("path", "status"), [("/livez", 200), ("/health", 503), ("/readyz", 503), ("/metrics", 503)]
)
@trio_test
async def test_connection_beyond_the_limit_is_for_probes(path: str, status: int) -> None:
    """If every connection is busy, scrapes get 503 and probes are answered."""
    exporter, stream = Exporter(), cast("Any", None)
    connection = Connection(stream, "192.0.2.1")
    connection.is_reserved = True
    exporter.connection_state = {CONNECTION: connection}
    answer = await exporter.ask(path)
    assert answer.status == status
    assert (answer.body == b"too many connections\n") == (path == "/metrics")


@trio_test
async def test_livez_asks_nothing_but_the_loop() -> None:
    """An exporter without a node is alive."""
    assert (await Exporter().ask("/livez")).status == 200


@pytest.mark.parametrize("path", ["/health", "/readyz"])
@trio_test
async def test_health_without_a_node_is_503(path: str) -> None:
    """Without a node `/health` is 503 with that reason."""
    answer = await Exporter().ask(path)
    assert (answer.status, answer.json["status"]) == (503, "failed")
    assert answer.json["reasons"] == ["events: no node has reported"]


@pytest.mark.parametrize("path", ["/health", "/readyz"])
@pytest.mark.parametrize("state", ["online", "busy"])
@trio_test
async def test_health_of_a_serving_node_is_200(
    autojump_clock: MockClock, path: str, state: NodeState
) -> None:
    """A node that is online or busy is healthy."""
    del autojump_clock
    exporter = Exporter()
    exporter.hear(NodeStateChanged(state))
    await trio.sleep(0.5)
    answer = await exporter.ask(path)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json["nodes"] == {"n1": {"up": True, "state": state, "silent_seconds": 0.5}}
    assert answer.json["reasons"] == []


@trio_test
async def test_health_of_a_lost_node_is_503(autojump_clock: MockClock) -> None:
    """A silent node is named in a 503, until it is back."""
    del autojump_clock
    exporter = Exporter()
    exporter.hear(NodeStateChanged("online"))
    await trio.sleep(TIMEOUT_SECONDS + 1)
    await exporter.store.tick(trio.current_time())
    answer = await exporter.ask("/health")
    assert (answer.status, answer.json["reasons"]) == (503, ["events: no events from n1"])
    exporter.hear(NodeStateChanged("online"), first=2)
    await trio.sleep(1)
    assert (await exporter.ask("/health")).status == 200


@trio_test
async def test_departed_node_is_no_fault_while_another_serves() -> None:
    """A node that said goodbye does not fail `/health` while another one serves."""
    exporter = Exporter()
    exporter.hear(NodeStateChanged("online"))
    exporter.hear(first=2, goodbye=True)
    batch = pack_batch(NodeStateChanged("online"), node_id="n2", session="t1")
    accepted = decode_batch(batch)
    assert isinstance(accepted, Accepted)
    exporter.ingest.count(accepted, trio.current_time(), 1.6e9)
    exporter.store.state.nodes["n2"].api_url = Exporter.api_url
    answer = await exporter.ask("/health")
    assert (answer.status, answer.json["reasons"]) == (200, [])
    assert answer.json["nodes"]["n1"]["up"] is False


@trio_test
async def test_check_that_breaks_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that raises counts as failed, with its reason."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("exporter.web.health._ask", broken)
    exporter = Exporter()
    exporter.hear(NodeStateChanged("online"))
    answer = await exporter.ask("/health")
    assert answer.status == 503
    assert "a fault of ours" in answer.json["checks"]["node_api"]["reason"]
    assert exporter.failed == ["health"]


@trio_test
async def test_health_after_a_goodbye_is_503() -> None:
    """After the goodbye of the only node `/health` is 503."""
    exporter = Exporter()
    exporter.hear(NodeStateChanged("online"))
    exporter.hear(first=2, goodbye=True)
    assert (await exporter.ask("/health")).status == 503


@pytest.mark.parametrize("state", ["draining", "unknown"])
@trio_test
async def test_health_of_a_node_that_takes_no_request_is_503(state: NodeState) -> None:
    """Only online and busy are healthy; the status is the reason."""
    exporter = Exporter()
    exporter.hear(NodeStateChanged(state))
    answer = await exporter.ask("/health")
    assert answer.status == 503
    assert answer.json["reasons"] == [f"node n1: {state}"]


@trio_test
async def test_failed_check_is_named_and_counted(autojump_clock: MockClock) -> None:
    """A failed check is in the response and in the metrics."""
    del autojump_clock
    exporter = Exporter()
    answer = await exporter.ask("/health")
    assert answer.status == 503
    assert answer.json["checks"]["events"]["status"] == "failed"
    assert "events: no node has reported" in answer.json["reasons"]
    exporter.hear(NodeStateChanged("online"))
    await trio.sleep(1)
    assert (await exporter.ask("/health")).status == 200
    await exporter.store.tick(trio.current_time())
    shown = (await exporter.ask("/metrics")).body.decode()
    name = "distributed_llm_health_check_total"
    assert f'{name}{{check="events",status="failed"}} 1.0' in shown
    assert f'{name}{{check="events",status="ok"}} 1.0' in shown
    assert f'{name}{{check="render",status="ok"}} 2.0' in shown
    latency = "distributed_llm_health_check_latency_seconds_count"
    assert f'{latency}{{check="events"}} 2.0' in shown


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ('{"engines": {"a": "ready", "b": "loading", "c": "unloaded"}}', " (b: loading)"),
        ('{"engines": {"a": "failed", "b\\n": "loading"}}', " (a: failed, b\ufffd: loading)"),
        ('{"engines": {"a": "failed"}, "faults": {"a": "no\\n"}}', " (a: failed: no\ufffd)"),
        ('{"engines": {"a": "ready"}}', ""),
        ('{"engines": {"a": 1}}', ""),
        ("[" * 5000, ""),
        ("", ""),
    ],
)
@trio_test
async def test_node_that_is_not_well_says_why(
    told: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason includes the node's own words: which model is not ready."""
    monkeypatch.setattr(_Api, "status", 503)
    monkeypatch.setattr(_Api, "body", told.encode())
    exporter = Exporter()
    exporter.hear(NodeStateChanged("busy"))
    answer = await exporter.ask("/health")
    assert answer.status == 503
    [given] = [one for one in answer.json["reasons"] if one.startswith("node_api")]
    assert given.endswith(f"answers 503{reason}")


@trio_test
async def test_probing_does_not_run_the_checks_again(autojump_clock: MockClock) -> None:
    """Frequent probes do not run the checks more than once a second."""
    del autojump_clock
    exporter = Exporter()
    for _ in range(20):
        await exporter.ask("/health")
    await exporter.store.tick(trio.current_time())
    checks = take_cut(exporter.store.state).numbers[HEALTH_CHECKS]
    assert checks["events", "failed"] == 1


@trio_test
async def test_engine_without_progress_is_503(autojump_clock: MockClock) -> None:
    """Work without progress fails the check; an idle engine or a short pause does not."""
    del autojump_clock
    exporter = Exporter()
    for first, (seconds, status) in enumerate(
        ((0.0, 200), (ENGINE_SILENCE_SECONDS - 1, 200), (ENGINE_SILENCE_SECONDS + 1, 503)), 1
    ):
        exporter.hear(
            NodeStateChanged("busy"),
            EngineProgressed("m", 1.5e9, seconds),
            first=2 * first,
        )
        answer = await exporter.ask("/health")
        assert answer.status == status
        await trio.sleep(1)
    assert answer.json["reasons"] == [
        "engine: model m on n1 has work and made no progress for 31 s"
    ]


@trio_test
async def test_journal_that_fails_degrades_and_does_not_fail(autojump_clock: MockClock) -> None:
    """A failing journal is `degraded`, still 200: the node serves and counting continues."""
    del autojump_clock
    exporter = Exporter()
    exporter.hear(NodeStateChanged("online"))
    exporter.store.state.storage.durable = False
    answer = await exporter.ask("/health")
    assert (answer.status, answer.json["status"]) == (200, "degraded")
    assert answer.json["reasons"][0].startswith("journal: ")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1",
        "nonsense",
        "http://127.0.0.1:99999",
        "http://[::1",
        "http://" + "x" * 81,
        "http://a b:80/",
        "http://127.0.0.1:1/\r\nx",
    ],
)
@trio_test
async def test_api_that_cannot_be_asked_fails_its_check(url: str) -> None:
    """An unusable address of a node fails its check, and the reason shows the address."""
    exporter = Exporter()
    exporter.hear(NodeStarted(1.5e9, "1", "3", "e", url), NodeStateChanged("online"))
    await exporter.health._run("node_api")
    answer = await exporter.ask("/health")
    assert answer.status == 503
    assert url in answer.json["checks"]["node_api"]["reason"]


@trio_test
async def test_websocket_is_refused() -> None:
    """A WebSocket is closed."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await Exporter().application({"type": "websocket"}, receive, send)
    assert sent == ["websocket.close"]
