"""Answers paths that the API does not have: names this API, and the path that was meant."""

import difflib
from collections.abc import Iterable
from typing import Final

from node.api.edge.asgi import Application, Receive, Scope, Send

SERVED: Final = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/models",
    "/v1/rerank",
    "/v1/responses",
)
"""Listed in the error; `/openapi.json` describes them."""

_OTHERS: Final = {
    "/metrics": "the exporter serves /metrics, on port 9090 by default",
    "/v1/moderations": "moderation is not supported",
    "/v1/audio": "audio is not supported",
    "/v1/images": "images are not supported",
    "/v1/files": "files are not supported",
    "/v1/batches": "batches are not supported",
    "/v1/fine_tuning": "fine-tuning is not supported",
    "/v1/assistants": "the Assistants API is not supported: use /v1/chat/completions",
    "/v1/threads": "the Assistants API is not supported: use /v1/chat/completions",
    "/v1/realtime": "the Realtime API is not supported: use /v1/chat/completions",
    "/api/chat": "Ollama's API is not supported: use /v1/chat/completions",
    "/api/generate": "Ollama's API is not supported: use /v1/completions",
    "/api/embed": "Ollama's API is not supported: use /v1/embeddings",
    "/api/embeddings": "Ollama's API is not supported: use /v1/embeddings",
    "/api/tags": "Ollama's API is not supported: use /v1/models",
    "/completion": "llama.cpp's own API is not supported: use /v1/completions",
    "/infill": "llama.cpp's own API is not supported: use /v1/completions",
    "/generate": "this is OpenAI's API: use /v1/completions",
    "/generate_stream": "this is OpenAI's API: use /v1/completions with stream",
    "/ready": "use /health",
    "/readyz": "use /health",
    "/healthz": "use /health, or /livez",
    "/docs": "use /openapi.json",
    "/swagger.json": "use /openapi.json",
}
"""Paths that clients of other servers request, and the hint for each. Paths below them are
included."""


def explain(path: str) -> str:
    """Return the error text for a path that does not exist."""
    known = _hint(path.lower())
    listed = ", ".join(SERVED)
    return f"no such path{known}. This is an OpenAI-compatible API: it serves {listed}"


def tidy_paths(application: Application) -> Application:
    """Serve paths with doubled or trailing slashes, which base URLs that end in a slash cause.

    Runs after the access checks, which use the path as it was sent.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = tidy(scope["path"])
            scope["raw_path"] = tidy(scope["raw_path"].decode("ascii")).encode()
        await application(scope, receive, send)

    return wrapped


def tidy(path: str) -> str:
    """Return a path without doubled and trailing slashes."""
    return "/" + "/".join(part for part in path.split("/") if part)


def _hint(path: str) -> str:
    for other, hint in _OTHERS.items():
        if path == other or path.startswith(f"{other}/"):
            return f" ({hint})"
    near = _nearest(path, SERVED)
    return f" (did you mean {near}?)" if near else ""


def _nearest(path: str, served: Iterable[str]) -> str | None:
    """Return the served path with the same end (`/v1` missing or doubled), or a similar one."""
    for candidate in served:
        if path.endswith((candidate, candidate.removeprefix("/v1"))):
            return candidate
    return next(iter(difflib.get_close_matches(path[:100], served, 1, 0.8)), None)
