"""Clients that do not read, do not send, or come in crowds harm no others."""

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h2.config
import h2.connection
import h2.settings
import httpx
import psutil
import pytest

from tests.processes import Pair, Running, scrape, value, wait_for

BODY = b'{"prompt": "Once upon a time", "stream": true}'
LARGE_BODY = (
    b'{"prompt": "Once upon a time", "stream": true, "max_tokens": 500, "ignore_eos": true,'
    b' "logprobs": 20}'
)
"""Asks for an answer that does not fit into the buffers of a connection."""
UNSENT_BYTES = 8 * 1024


def address(node: Running) -> tuple[str, int]:
    parts = urlsplit(node.url)
    return str(parts.hostname), int(parts.port or 0)


@contextlib.contextmanager
def connect(node: Running) -> Iterator[socket.socket]:
    """Open a connection with a tiny receive buffer."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(90)
        connection.connect(address(node))
        yield connection


@contextlib.contextmanager
def stop_reading_http1(node: Running, body: bytes = BODY) -> Iterator[socket.socket]:
    """Request a stream and never read."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with connect(node) as connection:
        connection.sendall(head + body)
        yield connection


def open_http2(window: int) -> h2.connection.H2Connection:
    client = h2.connection.H2Connection(config=h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    return client


def ask_http2(client: h2.connection.H2Connection, method: str, path: str, body: bytes) -> int:
    number = client.get_next_available_stream_id()
    pseudo = [(":method", method), (":scheme", "http"), (":authority", "x"), (":path", path)]
    client.send_headers(number, pseudo, end_stream=not body)
    if body:
        client.send_data(number, body, end_stream=True)
    return number


@contextlib.contextmanager
def stop_reading_http2(node: Running, body: bytes = BODY) -> Iterator[socket.socket]:
    """Request a stream over HTTP/2 and never read from the socket."""
    client = open_http2(2**20)
    ask_http2(client, "POST", "/v1/completions", body)
    with connect(node) as connection:
        connection.sendall(client.data_to_send())
        yield connection


@contextlib.contextmanager
def give_no_window(node: Running) -> Iterator[socket.socket]:
    """Request a stream over HTTP/2 and give the server no window for its body.

    The connection serves another stream of the same client meanwhile.
    """
    client = open_http2(0)
    slow = ask_http2(client, "POST", "/v1/completions", BODY)
    with connect(node) as connection:
        connection.sendall(client.data_to_send())
        ended: list[Any] = []
        while not ended:
            seen = client.receive_data(connection.recv(65536))
            connection.sendall(client.data_to_send())
            ended = [e for e in seen if isinstance(e, h2.events.StreamReset)]
        assert ended[0].stream_id == slow
        other = ask_http2(client, "GET", "/health", b"")
        connection.sendall(client.data_to_send())
        headers: list[Any] = []
        while not headers:
            seen = client.receive_data(connection.recv(65536))
            headers = [e for e in seen if isinstance(e, h2.events.ResponseReceived)]
        assert headers[0].stream_id == other
        yield connection


def stalled(node: Running) -> int:
    """Return how many connections have more to send than their readers take (proc(5))."""
    _, port = address(node)
    _, *rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines())
    unsent = [int(row[4].partition(":")[0], 16) for row in rows if row[1].endswith(f":{port:04X}")]
    return sum(count > UNSENT_BYTES for count in unsent)


def complete(node: Running) -> None:
    """Request an answer in the ordinary way."""
    asked = {"prompt": "Once", "max_tokens": 2}
    httpx.post(f"{node.url}/v1/completions", json=asked, timeout=60).raise_for_status()


@pytest.mark.slow
@pytest.mark.parametrize("reader", [stop_reading_http1, stop_reading_http2, give_no_window])
def test_reader_that_stops_is_cut(pair: Pair, slow_model: Path, reader: Any) -> None:
    """A stalled reader is cut with a reason, counted, and frees slot, task and descriptor."""
    flags = (f"--model={slow_model}", "--reader-seconds=1.5")
    with pair.exporter() as exporter, pair.node(*flags) as node:

        def count(name: str, **labels: str) -> float:
            return value(scrape(exporter.url), name, **labels) or 0.0

        def held() -> dict[str, float]:
            """Return the node's resources, from a new sample."""
            now = count("node_uptime_seconds")
            wait_for(lambda: count("node_uptime_seconds") > now + 1)
            files = psutil.Process(node.process.pid).num_fds()
            return {"files": files, "tasks": count("system_goroutines")}

        complete(node)
        wait_for(lambda: count("inference_requests_total"))
        before = held()
        with reader(node):
            wait_for(lambda: "read nothing for 1.5 s" in node.log.read_text(), 90)
            wait_for(lambda: count("inference_requests_total", status="cancelled") == 1)
            assert count("http_requests_total", status="408", route="/v1/completions") == 1
            wait_for(lambda: count("inference_requests_in_flight") == 0)
        complete(node)  # the only slot is free
        wait_for(lambda: all(before[kind] >= number for kind, number in held().items()))
        assert "Traceback" not in node.log.read_text()


@pytest.mark.slow
def test_others_are_served_meanwhile(pair: Pair) -> None:
    """Stalled readers do not delay others."""
    with pair.node("--reader-seconds=30") as node, contextlib.ExitStack() as readers:
        for _ in range(20):
            readers.enter_context(stop_reading_http1(node, LARGE_BODY))
        wait_for(lambda: stalled(node) == 20, 60)
        for _ in range(3):
            complete(node)


@pytest.mark.slow
def test_stop_does_not_wait_for_a_reader(pair: Pair) -> None:
    """A stalled reader does not delay the node's stop."""
    with (
        pair.node("--reader-seconds=600", "--drain-seconds=0.5") as node,
        stop_reading_http1(node, LARGE_BODY),
        stop_reading_http2(node, LARGE_BODY),
    ):
        wait_for(lambda: stalled(node) == 2)
        began = time.monotonic()
        assert node.end() == 0
        assert time.monotonic() - began < 30


@pytest.mark.slow
def test_idle_connections_make_room(pair: Pair) -> None:
    """Above the limit, the connection that has been idle for longest is closed."""
    with pair.node("--connections=3") as node, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(node)) for _ in range(20)]
        assert httpx.get(f"{node.url}/v1/models").status_code == 200
        assert held[0].recv(1000) == b""
        assert node.log.read_text().count("open connections is reached") == 1


@pytest.mark.slow
def test_busy_connections_keep_their_places_and_probes_get_in(pair: Pair) -> None:
    """If every connection is busy, new ones are refused and probes are answered."""
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Expect: 100-continue\r\nContent-Length: {len(BODY)}\r\nConnection: close\r\n\r\n"
    )
    with pair.node("--connections=3") as node, contextlib.ExitStack() as stack:
        busy = [stack.enter_context(connect(node)) for _ in range(3)]
        for connection in busy:
            connection.sendall(head.encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        refused = httpx.get(f"{node.url}/v1/models")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["code"] == "too_many_connections"
        assert [httpx.get(f"{node.url}{path}").status_code for path in ("/livez", "/health")] == [
            200,
            200,
        ]
        busy[0].sendall(BODY)
        assert b"data: [DONE]" in b"".join(iter(lambda: busy[0].recv(65536), b""))


@pytest.mark.slow
def test_descriptors_that_run_out_end_nothing(pair: Pair) -> None:
    """Connections beyond the limit of open files neither end a node nor fill its log."""
    with pair.node() as node, contextlib.ExitStack() as stack:
        before = len(node.log.read_text().splitlines())
        taken = len(list(Path(f"/proc/{node.process.pid}/fd").iterdir()))
        resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, (taken + 10, taken + 10))
        for _ in range(100):
            stack.enter_context(connect(node))
        assert httpx.get(f"{node.url}/livez").status_code == 200
        assert node.log.read_text().count("cannot accept connections") == 1
        # The sampler may log one traceback.
        assert len(node.log.read_text().splitlines()) < before + 30


def test_headers_are_bounded(shared_node: Running) -> None:
    """Too many or too large headers are 431, over HTTP/1.1 and HTTP/2."""
    for http2 in (False, True):
        with httpx.Client(http1=not http2, http2=http2) as client:
            many = {f"x-{number}": "v" for number in range(120)} | {"X-Request-ID": "order-66"}
            refused = client.get(f"{shared_node.url}/health", headers=many)
            assert (refused.status_code, refused.headers["x-request-id"]) == (431, "order-66")
            assert refused.json()["error"]["code"] == "headers_too_large"
            refused = client.get(f"{shared_node.url}/health", headers={"x": "v" * 20_000})
            assert refused.status_code == 431


@pytest.fixture(params=["node", "exporter"])
def running(request: pytest.FixtureRequest) -> Running:
    """Run a node or an exporter."""
    shared: Running = request.getfixturevalue(f"shared_{request.param}")
    return shared


@pytest.mark.parametrize(
    "headers",
    [
        [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/\udcff")],
        [(":method", "G\udcff"), (":scheme", "http"), (":authority", "x"), (":path", "/")],
        [(":method", "CONNECT"), (":authority", "x")],
    ],
    ids=["path", "method", "connect"],
)
def test_request_that_breaks_the_protocol_ends_only_its_connection(
    running: Running, headers: list[tuple[str, str]]
) -> None:
    """A request that breaks the HTTP library ends only its own connection."""
    raw = [(name.encode(), text.encode(errors="surrogateescape")) for name, text in headers]
    config = h2.config.H2Configuration(
        client_side=True, header_encoding=None, validate_outbound_headers=False
    )
    with connect(running) as connection:
        client = h2.connection.H2Connection(config=config)
        client.initiate_connection()
        client.send_headers(1, raw, end_stream=True)
        connection.sendall(client.data_to_send())
        while connection.recv(65536):
            pass
        assert httpx.get(f"{running.url}/livez").status_code == 200
        assert "Traceback" not in running.log.read_text()


def test_body_after_its_answer_ends_nothing_else(running: Running) -> None:
    """Over HTTP/2 a body that arrives after its response ends nothing else."""
    with connect(running) as connection:
        client = open_http2(2**20)
        pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", "x")]
        client.send_headers(1, [*pseudo, (":path", "/nowhere")])
        connection.sendall(client.data_to_send())
        ended = False
        while not ended:
            seen = client.receive_data(connection.recv(65536))
            ended = any(isinstance(event, h2.events.StreamEnded) for event in seen)
        client.send_data(1, bytes(1000))
        connection.sendall(client.data_to_send())
        with contextlib.suppress(ConnectionError):
            while connection.recv(65536):
                pass
        assert httpx.get(f"{running.url}/livez").status_code == 200
