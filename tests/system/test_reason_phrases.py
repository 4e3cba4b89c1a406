"""Status lines of node and exporter contain the reason phrase."""

import socket
from urllib.parse import urlsplit

from tests.processes import Pair, Running


def status_line(running: Running, method: str, path: str) -> str:
    """Return the status line of a response over HTTP/1.1."""
    parts = urlsplit(running.url)
    request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(request.encode())
        return connection.makefile("rb").readline().decode().rstrip()


def test_node_sends_reason_phrases(shared_node: Running) -> None:
    """The node sends reason phrases, which are all that some clients show."""
    assert status_line(shared_node, "GET", "/health") == "HTTP/1.1 200 OK"
    assert status_line(shared_node, "POST", "/v1/completions") == "HTTP/1.1 400 Bad Request"
    assert status_line(shared_node, "GET", "/nowhere") == "HTTP/1.1 404 Not Found"
    assert status_line(shared_node, "DELETE", "/v1/models") == "HTTP/1.1 405 Method Not Allowed"


def test_exporter_sends_reason_phrases(pair: Pair) -> None:
    """The exporter sends reason phrases."""
    with pair.exporter() as exporter:
        assert status_line(exporter, "GET", "/livez") == "HTTP/1.1 200 OK"
        assert status_line(exporter, "GET", "/nowhere") == "HTTP/1.1 404 Not Found"
        assert status_line(exporter, "POST", "/metrics") == "HTTP/1.1 405 Method Not Allowed"
