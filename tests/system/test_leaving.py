"""Clients that leave at the first moment of a request leave nothing behind."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import h2.config
import h2.connection
import httpx
import pytest

from tests import grpc_client
from tests.processes import Pair, Running, scrape, stream, value, wait_for

PATH = "/v1/completions"
ASKED = {"prompt": "Once upon a time", "max_tokens": 1900, "temperature": 0, "stream": True}
BODY = json.dumps(ASKED).encode()
LAST = ASKED | {"max_tokens": 1, "stream": False}
CLIENTS = 10


def connect(node: Running) -> socket.socket:
    address = urlsplit(node.url)
    return socket.create_connection((address.hostname, address.port), timeout=60)


def ask_http1(node: Running) -> None:
    """Send a request over HTTP/1.1 and close the connection."""
    with connect(node) as connection:
        head = f"POST {PATH} HTTP/1.1\r\nHost: node\r\nContent-Length: {len(BODY)}\r\n\r\n"
        connection.sendall(head.encode() + BODY)


def ask_http2(node: Running) -> None:
    """Send a request over HTTP/2, reset its stream, and close the connection."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    headers = {":method": "POST", ":path": PATH, ":scheme": "http", ":authority": "node"}
    client.send_headers(1, list(headers.items()))
    client.send_data(1, BODY, end_stream=True)
    with connect(node) as connection:
        connection.sendall(client.data_to_send())
        connection.recv(1)  # the node has read something of it
        client.reset_stream(1)
        connection.sendall(client.data_to_send())


def ask_grpc(node: Running) -> None:
    """Begin a call over gRPC and cancel it."""
    with grpc_client.connect(node.url) as client:
        client.inference.GenerateStream(grpc_client.ask(max_tokens=1900)).cancel()


@pytest.mark.slow
@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.parametrize("ask", [ask_http1, ask_http2, ask_grpc])
def test_clients_that_leave_at_once_leave_nothing(
    pair: Pair, slow_model: Path, ask: Callable[[Running], None], *, busy: bool
) -> None:
    """Nothing stays queued and no answer is generated: all of them would take long."""
    with pair.exporter() as exporter, pair.node(f"--model={slow_model}") as node:
        running = stream(node.url, **ASKED)
        if busy:
            next(running)
        for _ in range(CLIENTS):
            ask(node)
        running.close()  # type: ignore[attr-defined]
        # The last in the queue: everything before it has been served or has left.
        last = httpx.post(f"{node.url}{PATH}", json=LAST, timeout=110)
        assert last.status_code == 200
        wait_for(lambda: value(scrape(exporter.url), "inference_requests_total", status="ok"))
        wait_for(lambda: value(scrape(exporter.url), "inference_requests_in_flight") == 0)
        assert value(scrape(exporter.url), "inference_requests_total", status="ok") == 1
