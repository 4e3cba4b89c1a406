"""For whom a request is answered, and who is let in."""

from typing import Any

from trio.testing import trio_test

from node.api.edge.asgi import (
    CLIENT,
    OPEN_PATHS,
    Application,
    note_client,
    require_certificate,
    require_key,
)
from node.api.edge.connection import CONNECTION, Connection
from shared.secret import BearerTokens

KEY = "sk-a-key"


class Asked:
    """An application that keeps the scope of what came through."""

    def __init__(self) -> None:
        self.client: str | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Take a request."""
        del receive, send
        self.client = scope[CLIENT]


async def ask(application: Application, path: str, key: str = "", certificate: str = "") -> None:
    """Send one request through."""
    stream: Any = None
    connection = Connection(stream, "192.0.2.1")
    connection.certificate = certificate
    scope = {
        "type": "http",
        "path": path,
        "client": ("192.0.2.1", 4711),
        "headers": [(b"authorization", b"Bearer " + key.encode())],
        "state": {CONNECTION: connection},
    }

    async def nothing(*_: Any) -> Any:
        return {}

    await application(scope, nothing, nothing)


@trio_test
async def test_request_is_of_its_key_else_certificate_else_address() -> None:
    """Fairness goes by the best name that there is, and never by the key itself."""
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
async def test_only_what_probes_ask_needs_no_certificate() -> None:
    """Every other path is closed, the page and what only looks like a probe's path too."""
    for path in ("/", "/v1/models", "/health/", "//health", "/HEALTH", *OPEN_PATHS):
        asked = Asked()
        await ask(note_client(require_certificate(asked)), path)
        assert (asked.client is not None) == (path in OPEN_PATHS)
        await ask(note_client(require_certificate(asked)), path, certificate="cafe")
        assert asked.client == "certificate:cafe"
