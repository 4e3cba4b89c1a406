"""The edge of the API: who a request is from, who is admitted, and which targets exist."""

import json
from typing import Any

import pytest
from trio.testing import trio_test

from node.api.edge.asgi import (
    CALLS,
    CLIENT,
    OPEN_PATHS,
    REFUSED,
    Application,
    check_head,
    note_client,
    require_certificate,
    require_key,
)
from node.errors import MissingKeyError, WrongKeyError
from shared.runtime.http.connection import CONNECTION, Connection
from shared.secret import BearerTokens

KEY = "sk-a-key"


class Asked:
    """An application that records the scopes of admitted requests."""

    def __init__(self) -> None:
        self.client: str | None = None
        self.path: str | None = None
        self.refused: object = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Record a request."""
        del receive, send
        self.client = scope.get(CLIENT)
        self.path = scope["path"]
        self.refused = scope.get(REFUSED)


async def ask(  # noqa: PLR0913, PLR0917 - a request has as many parts
    application: Application,
    path: str,
    key: str = "",
    certificate: str = "",
    authorization: bytes | None = None,
    method: str = "GET",
    header: bytes = b"authorization",
) -> list[Any]:
    """Send one request and return the response."""
    stream: Any = None
    connection = Connection(stream, "192.0.2.1")
    connection.certificate = certificate
    if authorization is None:
        authorization = b"Bearer " + key.encode()
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "client": ("192.0.2.1", 4711),
        "headers": [(header, authorization)],
        "state": {CONNECTION: connection},
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {}

    async def send(message: Any) -> None:
        sent.append(message)

    await application(scope, receive, send)
    return sent


def error_of(sent: list[Any]) -> tuple[int, str, str, str]:
    """Return a response's status, code and message, and its challenge."""
    start, body = sent
    error = json.loads(body["body"])["error"]
    challenge = dict(start["headers"]).get(b"www-authenticate", b"").decode()
    return start["status"], error["code"], error["message"], challenge


@trio_test
async def test_request_is_of_its_key_else_certificate_else_address() -> None:
    """A client is known by its key, else its certificate, else its address; keys are hashed."""
    asked = Asked()
    keys = BearerTokens([KEY, "another"])
    application = note_client(require_key(asked, keys))
    await ask(application, "/v1/models", KEY, "cafe")
    assert asked.client == f"key:{keys.find(f'Bearer {KEY}')}"
    assert KEY not in asked.client
    await ask(application, "/health", certificate="cafe")
    assert asked.client == "certificate:cafe"
    await ask(application, "/health")
    assert asked.client == "192.0.2.1"


@trio_test
async def test_key_may_come_in_anthropics_header() -> None:
    """A key in `x-api-key` names the same client as in `Authorization`."""
    asked = Asked()
    keys = BearerTokens([KEY])
    application = require_key(asked, keys)
    await ask(application, "/v1/messages", authorization=KEY.encode(), header=b"x-api-key")
    assert asked.client == f"key:{keys.find(f'Bearer {KEY}')}"
    sent = await ask(application, "/v1/messages", authorization=b"sk-no", header=b"x-api-key")
    assert error_of(sent)[1] == "invalid_api_key"


@trio_test
async def test_only_what_probes_ask_needs_no_certificate() -> None:
    """Only the paths of probes are open without a client certificate."""
    for path in ("/", "/v1/models", "/health/", "//health", "/HEALTH", *OPEN_PATHS):
        asked = Asked()
        await ask(note_client(require_certificate(asked)), path)
        assert (asked.client is not None) == (path in OPEN_PATHS)
        await ask(note_client(require_certificate(asked)), path, certificate="cafe")
        assert asked.client == "certificate:cafe"


@pytest.mark.parametrize(
    ("authorization", "kind", "challenge"),
    [
        (b"", MissingKeyError, "Bearer"),
        (b"Bearer ", MissingKeyError, "Bearer"),
        (b"Basic c2stYS1rZXk=", MissingKeyError, "Bearer"),
        (b"sk-a-key", MissingKeyError, "Bearer"),
        (b"Bearer sk-another", WrongKeyError, 'Bearer error="invalid_token"'),
        ("Bearer sk-zwölf".encode(), WrongKeyError, 'Bearer error="invalid_token"'),
        ("Bearer sk-zwölf".encode("latin-1"), WrongKeyError, 'Bearer error="invalid_token"'),
        (b"Bearer " + b"k" * 10_000, WrongKeyError, 'Bearer error="invalid_token"'),
    ],
)
@trio_test
async def test_wrong_key_is_told_apart_from_a_missing_one(
    authorization: bytes, kind: type[MissingKeyError | WrongKeyError], challenge: str
) -> None:
    """A wrong key differs from a missing one in code, text and challenge, and is never shown."""
    asked = Asked()
    application = require_key(asked, BearerTokens([KEY]))
    sent = await ask(application, "/v1/models", authorization=authorization)
    assert error_of(sent) == (401, kind.code, str(kind()), challenge)
    assert asked.path is None
    await ask(application, f"{CALLS[0]}Generate", authorization=authorization)
    assert isinstance(asked.refused, kind)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/v1/models", "/v1/models"),
        ("http://other/v1/models", "/v1/models"),
        ("HTTPS://127.0.0.1:8080/v1/models/a%20b", "/v1/models/a b"),
        ("http://other", "/"),
        ("http://other/http://other/x", "/http://other/x"),
        ("other:443", None),
        ("*", None),
        ("ftp://other/v1/models", None),
        ("", None),
    ],
)
@trio_test
async def test_target_in_absolute_form_is_served_by_its_path(target: str, path: str | None) -> None:
    """A target in absolute form is served by its path; an invalid one is refused."""
    asked = Asked()
    sent = await ask(check_head(asked), target)
    assert asked.path == path
    assert [message.get("status") for message in sent[:1]] == ([] if path else [400])


@trio_test
async def test_options_of_the_whole_server_are_answered() -> None:
    """`OPTIONS *` is answered."""
    start, _ = await ask(check_head(Asked()), "*", method="OPTIONS")
    assert start["status"] == 204
    assert dict(start["headers"])[b"allow"] == b"GET, HEAD, OPTIONS, POST"
