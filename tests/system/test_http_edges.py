"""Unusual but ordinary HTTP requests are served, or refused with a helpful reason."""

import gzip
import http.client
import json
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest

from tests.processes import Running

ASKED: Final = {"prompt": "Once upon a time", "max_tokens": 2, "temperature": 0, "seed": 1}
BODY: Final = json.dumps(ASKED).encode()


def complete(node: Running, content: bytes, **headers: str) -> httpx.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{node.url}/v1/completions", content=content, headers=given, timeout=60)


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "application/json; charset=utf-8",
        "text/plain",
        "application/x-www-form-urlencoded",
        "",
    ],
)
def test_json_is_read_whatever_its_content_type(shared_node: Running, kind: str) -> None:
    """JSON with the content type of a form, as `curl -d` sends it, is read."""
    assert complete(shared_node, BODY, content_type=kind).status_code == 200


def test_form_is_refused_as_no_json(shared_node: Running) -> None:
    """A form is refused with the reason that it is not JSON."""
    refused = httpx.post(f"{shared_node.url}/v1/completions", data={"prompt": "a"})
    assert refused.status_code == 400
    assert "not JSON" in error_of(refused)["message"]


def test_compressed_body_is_served(shared_node: Running) -> None:
    """A compressed body is served; a long one is inflated beside the event loop."""
    plain = complete(shared_node, BODY).json()["choices"]
    packed = complete(shared_node, gzip.compress(BODY), content_encoding="gzip")
    assert packed.json()["choices"] == plain
    assert complete(shared_node, BODY, content_encoding="identity").json()["choices"] == plain
    long = gzip.compress(BODY.replace(b"Once", b"Once " * 200_000))
    refused = complete(shared_node, long, content_encoding="gzip")
    assert error_of(refused)["code"] == "context_length_exceeded"


def test_compression_that_is_not_supported_is_named(shared_node: Running) -> None:
    """An unsupported compression is 415 with the supported ones."""
    refused = complete(shared_node, BODY, content_encoding="br")
    assert refused.status_code == 415
    assert refused.headers["accept-encoding"] == "gzip, deflate"
    assert "'br'" in error_of(refused)["message"]
    bomb = complete(shared_node, gzip.compress(bytes(2**26)), content_encoding="gzip")
    assert bomb.status_code == 413


@pytest.mark.parametrize(
    "path", ["//v1/models", "/v1//models", "/v1/models/", "///v1///models//", "//v1/models//demo/"]
)
def test_doubled_and_trailing_slashes_are_served(shared_node: Running, path: str) -> None:
    """Doubled and trailing slashes, as a base URL with a slash causes them, are served."""
    assert httpx.get(shared_node.url + path).status_code == 200
    post = httpx.post(f"{shared_node.url}/v1//chat/completions/", json={})
    assert error_of(post)["param"] == "messages"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/v1/nonsense", "it serves /v1/chat/completions, /v1/completions"),
        ("/chat/completions", "did you mean /v1/chat/completions?"),
        ("/v1/v1/chat/completions", "did you mean /v1/chat/completions?"),
        ("/v1/chat/completion", "did you mean /v1/chat/completions?"),
        ("/v1/embedding", "did you mean /v1/embeddings?"),
        ("/models", "did you mean /v1/models?"),
        ("/v1/audio/speech", "audio is not supported"),
        ("/metrics", "the exporter serves /metrics"),
        ("/api/tags", "use /v1/models"),
    ],
)
def test_unknown_path_says_which_api_is_served(shared_node: Running, path: str, told: str) -> None:
    """An unknown path is answered with the served paths and the probable one."""
    response = httpx.get(shared_node.url + path)
    assert response.status_code == 404
    message = error_of(response)["message"]
    assert told in message
    assert path in message
    assert "/v1/models" in message


def test_wrong_method_says_which_are_right(shared_node: Running) -> None:
    """A wrong method is answered with the right ones, in `Allow` and in the text."""
    refused = httpx.delete(f"{shared_node.url}/v1/models/demo")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert "supports only GET, HEAD, OPTIONS" in error_of(refused)["message"]


def test_path_is_shown_short(shared_node: Running) -> None:
    """The error for any path is short and on one line."""
    refused = httpx.get(f"{shared_node.url}/v1/{'%0a' * 2000}")
    assert refused.status_code == 404
    assert len(error_of(refused)["message"]) < 400


def test_target_in_absolute_form_is_served(shared_node: Running) -> None:
    """A target in absolute form, as behind a proxy, is served."""
    parts = urlsplit(shared_node.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    connection.request("GET", f"{shared_node.url}/v1/models/demo")
    assert json.load(connection.getresponse())["id"] == "demo"
    connection.request("OPTIONS", "*")
    answered = connection.getresponse()
    answered.read()
    assert answered.status == 204
    connection.request("OPTIONS", "/v1/chat/completions")
    assert "POST" in str(connection.getresponse().getheader("Allow"))
    connection.close()


def test_byte_order_mark_is_passed_over(shared_node: Running) -> None:
    """A byte order mark, which some editors and shells write, is ignored."""
    assert complete(shared_node, b"\xef\xbb\xbf" + BODY).status_code == 200
    assert "UTF-16" in error_of(complete(shared_node, BODY.decode().encode("utf-16")))["message"]
