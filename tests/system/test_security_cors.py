"""CORS on a real node: off by default."""

from collections.abc import Iterator

import httpx
import pytest

from tests.processes import Pair, Running

ORIGIN = "https://chat.example"
PREFLIGHT = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}


def test_off_by_default(shared_node: Running) -> None:
    """Pages of other origins have no access by default."""
    for method in ("GET", "OPTIONS"):
        shown = httpx.request(method, f"{shared_node.url}/v1/models", headers=PREFLIGHT)
        assert not any(name.startswith("access-control") for name in shown.headers)


@pytest.fixture(scope="module")
def open_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A node that allows pages of two origins."""
    flag = f"--cors-origins={ORIGIN},http://localhost:5173"
    with Pair(tmp_path_factory.mktemp("cors")).node(flag) as node:
        yield node


@pytest.mark.parametrize("http2", [False, True])
def test_named_origin_may(open_node: Running, *, http2: bool) -> None:
    """Only the named origins have access, over HTTP/1.1 and HTTP/2."""
    with httpx.Client(http1=not http2, http2=http2) as client:
        asked = client.options(f"{open_node.url}/v1/chat/completions", headers=PREFLIGHT)
        assert asked.status_code == 204
        assert asked.headers["access-control-allow-origin"] == ORIGIN
        shown = client.get(f"{open_node.url}/nowhere", headers={"Origin": ORIGIN})
        assert shown.status_code == 404
        assert shown.headers["access-control-allow-origin"] == ORIGIN
        other = client.get(f"{open_node.url}/v1/models", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
