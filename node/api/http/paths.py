"""What a path that the API does not have is answered: which API this is, and what was meant."""

import difflib
from collections.abc import Iterable
from typing import Final

from node.api.edge.asgi import Application, Receive, Scope, Send

SERVED: Final = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/models",
)
"""What an error names; `/openapi.json` describes them."""

_OTHERS: Final = {
    "/metrics": "the exporter serves /metrics, on port 9090 by default",
    "/v1/responses": "the Responses API is not supported yet: use /v1/chat/completions",
    "/v1/messages": "Anthropic's API is not supported: use /v1/chat/completions",
    "/v1/moderations": "moderation is not supported",
    "/v1/rerank": "reranking is not supported",
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
"""Paths that clients of other servers ask for, and where each leads here. What begins with one of
them is meant too."""


def explain(path: str) -> str:
    """Return what an error says of a path that is not served."""
    known = _hint(path.lower())
    listed = ", ".join(SERVED)
    return f"no such path{known}. This is an OpenAI-compatible API: it serves {listed}"


def tidy_paths(application: Application) -> Application:
    """Serve a path with doubled or trailing slashes, as a base URL that ends in one makes them.

    Behind whatever decides by the path who may ask: that decides by the path as it was sent.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = tidy(scope["path"])
            scope["raw_path"] = tidy(scope["raw_path"].decode("ascii")).encode()
        await application(scope, receive, send)

    return wrapped


def tidy(path: str) -> str:
    """Return a path without its doubled and trailing slashes."""
    return "/" + "/".join(part for part in path.split("/") if part)


def _hint(path: str) -> str:
    for other, hint in _OTHERS.items():
        if path == other or path.startswith(f"{other}/"):
            return f" ({hint})"
    near = _nearest(path, SERVED)
    return f" (did you mean {near}?)" if near else ""


def _nearest(path: str, served: Iterable[str]) -> str | None:
    """Return the served path that ends alike, as without `/v1` or with it twice, or is near."""
    for candidate in served:
        if path.endswith((candidate, candidate.removeprefix("/v1"))):
            return candidate
    return next(iter(difflib.get_close_matches(path[:100], served, 1, 0.8)), None)
