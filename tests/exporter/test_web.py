"""The exporter's HTTP answers, asked of the application itself."""

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
from exporter.metrics import catalogue as c
from exporter.metrics.cut import take_cut
from exporter.metrics.state import State
from exporter.web import server
from exporter.web.health import HealthChecks
from exporter.web.server import Application
from shared import events
from shared.runtime.guard import Guard
from shared.runtime.http.connection import CONNECTION, Connection
from tests.builders import every_event, pack_batch
from tests.guards import strict_guard

ENGINE_SILENCE_SECONDS = 30.0
TIMEOUT_SECONDS = 2.5
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@dataclass
class Answer:
    """What a client gets."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as what it says."""
        return json.loads(self.body)


class _Api(BaseHTTPRequestHandler):
    """A node's API that is well, unless a test has it otherwise."""

    status = 200
    body = b""

    def do_GET(self) -> None:
        """Answer whatever is asked."""
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture(scope="module", autouse=True)
def api_url() -> Iterator[str]:
    """Where the nodes of these tests have their API."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Api) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        Exporter.api_url = f"http://127.0.0.1:{server.server_port}"
        yield Exporter.api_url
        server.shutdown()
        serving.join()


class Exporter:
    """An exporter without its sockets, whose nodes have an API that answers."""

    api_url = ""

    def __init__(self) -> None:
        self.connection_state: dict[str, Any] = {}
        """As the server hands it to the application."""
        self.failed: list[str] = []
        """Parts that failed unexpectedly."""
        self.ingest = Ingest(State(), TIMEOUT_SECONDS)
        self.store = Store(self.ingest, Path("none"), None, "there is no disk in these tests")
        self.store.state.storage.durable = True
        self.health = HealthChecks(self.store, ENGINE_SILENCE_SECONDS, Guard(self.failed.append))
        self.application = Application(self.store, self.health)

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

    def hear(self, *happened: events.Event, first: int = 1, **fields: Any) -> None:
        """Take a batch now."""
        accepted = decode_batch(pack_batch(*happened, first=first, **fields))
        assert isinstance(accepted, Accepted)
        self.ingest.count(accepted, trio.current_time(), 1.6e9)
        node = self.store.state.nodes["n1"]
        node.api_url = node.api_url or self.api_url


@trio_test
async def test_metrics_are_served() -> None:
    """A plain request gets the text format, its length told."""
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
    """What the last scrape took is in the next one."""
    exporter = Exporter()
    await exporter.ask("/metrics")
    await exporter.store.tick(trio.current_time())
    answer = await exporter.ask("/metrics")
    assert b"distributed_llm_exporter_scrape_duration_seconds_count 1.0\n" in answer.body


@pytest.mark.parametrize("path", ["/metrics", "/health", "/readyz", "/livez", "/nothing"])
@trio_test
async def test_head_is_get_without_its_body(path: str) -> None:
    """HEAD has the status and headers of GET and no body."""
    exporter = Exporter()
    got, headed = await exporter.ask(path), await exporter.ask(path, "HEAD")
    assert (headed.status, headed.body) == (got.status, b"")
    assert headed.headers["content-type"] == got.headers["content-type"]
    assert int(headed.headers["content-length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get", "TRACE"])
@trio_test
async def test_other_methods_are_refused(method: str) -> None:
    """Nothing here can be changed from outside."""
    answer = await Exporter().ask("/metrics", method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "", "/metrics/", "/Metrics", "/metrics/x", "/health/../x"])
@trio_test
async def test_other_path_is_not_found(path: str) -> None:
    """A wrong path is answered with the right ones."""
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
    """OpenMetrics goes to who would rather have it, labelled 1.0 whatever version was asked for."""
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
    """Gzip goes to who takes it and to nobody else."""
    answer = await Exporter().ask("/metrics", accept_encoding=codings)
    assert (answer.headers.get("content-encoding") == "gzip") == compressed
    text = gzip.decompress(answer.body) if compressed else answer.body
    assert text.startswith(b"# HELP")
    assert int(answer.headers["content-length"]) == len(answer.body)


@trio_test
async def test_names_restrict_the_answer() -> None:
    """`name[]` may be given several times, also percent-encoded."""
    exporter = Exporter()
    exporter.hear()
    wanted = "name[]=distributed_llm_node_up&name%5B%5D=distributed_llm_node_status"
    answer = await exporter.ask("/metrics", query=wanted)
    shown = {line.partition("{")[0] for line in answer.body.decode().splitlines() if line[0] != "#"}
    assert shown == {"distributed_llm_node_up", "distributed_llm_node_status"}


@trio_test
async def test_concurrent_scrapes_are_all_answered() -> None:
    """Scrapes beyond those that render at once wait their turn and share nothing."""
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
    """Have readers cut soon, and one scrape in memory at a time."""
    monkeypatch.setattr(server, "_ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(server, "_SCRAPES", 1)


def _ask_over_http_2() -> bytes:
    """Ask for `/metrics`, and let nothing of the answer through."""
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
    """What waits for a reader is bounded in number and in time, and others are answered."""
    exporter = Exporter()
    routes = [events.HttpFinished(f"/{number}", "GET", 200, 1.0) for number in range(9_000)]
    exporter.hear(*routes)
    question = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"
    async with trio.open_nursery() as nursery:
        url = await nursery.start(
            server.serve, exporter.application, "127.0.0.1", 0, 16, strict_guard()
        )
        with trio.fail_after(20), trio.socket.socket() as client:
            client.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
            await client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
            await client.send(_ask_over_http_2() if version == "2" else question)
            while exporter.application._scrapes.available_tokens:  # noqa: ASYNC110 - tells nobody
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
    """Where every connection works, a scrape is told to come again, and a probe is answered."""
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
    """Nobody has reported: that is a reason."""
    answer = await Exporter().ask(path)
    assert (answer.status, answer.json["status"]) == (503, "failed")
    assert answer.json["reasons"] == ["events: no node has reported"]


@pytest.mark.parametrize("path", ["/health", "/readyz"])
@pytest.mark.parametrize("state", ["online", "busy"])
@trio_test
async def test_health_of_a_serving_node_is_200(
    autojump_clock: MockClock, path: str, state: events.NodeState
) -> None:
    """A node that serves, or has no slot free, is well."""
    del autojump_clock
    exporter = Exporter()
    exporter.hear(events.NodeStateChanged(state))
    await trio.sleep(0.5)
    answer = await exporter.ask(path)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json["nodes"] == {"n1": {"up": True, "state": state, "silent_seconds": 0.5}}
    assert answer.json["reasons"] == []


@trio_test
async def test_health_of_a_lost_node_is_503(autojump_clock: MockClock) -> None:
    """A node that fell silent is named, and well again when it is back."""
    del autojump_clock
    exporter = Exporter()
    exporter.hear(events.NodeStateChanged("online"))
    await trio.sleep(TIMEOUT_SECONDS + 1)
    await exporter.store.tick(trio.current_time())
    answer = await exporter.ask("/health")
    assert (answer.status, answer.json["reasons"]) == (503, ["events: no events from n1"])
    exporter.hear(events.NodeStateChanged("online"), first=2)
    await trio.sleep(1)
    assert (await exporter.ask("/health")).status == 200


@trio_test
async def test_departed_node_is_no_fault_while_another_serves() -> None:
    """A node that said goodbye is shown; it does not keep the others from being well."""
    exporter = Exporter()
    exporter.hear(events.NodeStateChanged("online"))
    exporter.hear(first=2, goodbye=True)
    batch = pack_batch(events.NodeStateChanged("online"), node_id="n2", session="t1")
    accepted = decode_batch(batch)
    assert isinstance(accepted, Accepted)
    exporter.ingest.count(accepted, trio.current_time(), 1.6e9)
    exporter.store.state.nodes["n2"].api_url = Exporter.api_url
    answer = await exporter.ask("/health")
    assert (answer.status, answer.json["reasons"]) == (200, [])
    assert answer.json["nodes"]["n1"]["up"] is False


@trio_test
async def test_check_that_breaks_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a check runs into, the exporter goes on and says so."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("exporter.web.health._ask", broken)
    exporter = Exporter()
    exporter.hear(events.NodeStateChanged("online"))
    answer = await exporter.ask("/health")
    assert answer.status == 503
    assert "a fault of ours" in answer.json["checks"]["node_api"]["reason"]
    assert exporter.failed == ["health"]


@trio_test
async def test_health_after_a_goodbye_is_503() -> None:
    """A node that has left does not serve."""
    exporter = Exporter()
    exporter.hear(events.NodeStateChanged("online"))
    exporter.hear(first=2, goodbye=True)
    assert (await exporter.ask("/health")).status == 503


@pytest.mark.parametrize("state", ["draining", "unknown"])
@trio_test
async def test_health_of_a_node_that_takes_no_request_is_503(state: events.NodeState) -> None:
    """Only online and busy are well; the state is the reason."""
    exporter = Exporter()
    exporter.hear(events.NodeStateChanged(state))
    answer = await exporter.ask("/health")
    assert answer.status == 503
    assert answer.json["reasons"] == [f"node n1: {state}"]


@trio_test
async def test_failed_check_is_named_and_counted(autojump_clock: MockClock) -> None:
    """What a check found is in the answer and in the metrics."""
    del autojump_clock
    exporter = Exporter()
    answer = await exporter.ask("/health")
    assert answer.status == 503
    assert answer.json["checks"]["events"]["status"] == "failed"
    assert "events: no node has reported" in answer.json["reasons"]
    exporter.hear(events.NodeStateChanged("online"))
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
    """The node's own words, which model is not there, are part of the reason."""
    monkeypatch.setattr(_Api, "status", 503)
    monkeypatch.setattr(_Api, "body", told.encode())
    exporter = Exporter()
    exporter.hear(events.NodeStateChanged("busy"))
    answer = await exporter.ask("/health")
    assert answer.status == 503
    [given] = [one for one in answer.json["reasons"] if one.startswith("node_api")]
    assert given.endswith(f"answers 503{reason}")


@trio_test
async def test_probing_does_not_run_the_checks_again(autojump_clock: MockClock) -> None:
    """However often one asks, the checks run once a second."""
    del autojump_clock
    exporter = Exporter()
    for _ in range(20):
        await exporter.ask("/health")
    await exporter.store.tick(trio.current_time())
    checks = take_cut(exporter.store.state).numbers[c.HEALTH_CHECKS]
    assert checks["events", "failed"] == 1


@trio_test
async def test_engine_without_progress_is_503(autojump_clock: MockClock) -> None:
    """Work in hand and no progress is a stall; an idle engine and a short pause are none."""
    del autojump_clock
    exporter = Exporter()
    for first, (seconds, status) in enumerate(
        ((0.0, 200), (ENGINE_SILENCE_SECONDS - 1, 200), (ENGINE_SILENCE_SECONDS + 1, 503)), 1
    ):
        exporter.hear(
            events.NodeStateChanged("busy"),
            events.EngineProgressed("m", 1.5e9, seconds),
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
    """The node serves and the counts go on: that is told, not paged."""
    del autojump_clock
    exporter = Exporter()
    exporter.hear(events.NodeStateChanged("online"))
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
    """Whatever a node says its address is, the exporter goes on and names the fault."""
    exporter = Exporter()
    exporter.hear(events.NodeStarted(1.5e9, "1", "3", "e", url), events.NodeStateChanged("online"))
    await exporter.health._run("node_api")
    answer = await exporter.ask("/health")
    assert answer.status == 503
    assert url in answer.json["checks"]["node_api"]["reason"]


@trio_test
async def test_websocket_is_refused() -> None:
    """What is no HTTP request is closed, and tells nothing."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await Exporter().application({"type": "websocket"}, receive, send)
    assert sent == ["websocket.close"]
