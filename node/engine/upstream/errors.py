"""What can go wrong between the node and an engine elsewhere."""

from typing import Any, Final

import msgspec

MESSAGE: Final = 500
"""Limit of an error's text, in characters."""


class UpstreamError(Exception):
    """The server did not answer as it should; the text is one line without any key."""


class UnreachableError(UpstreamError):
    """No connection could be made, so the server has seen nothing of the request."""


class BrokenError(UpstreamError):
    """The server broke off, or its answer makes no sense."""


class StatusError(UpstreamError):
    """The server answered with another status than 200.

    Args:
        status: From 300 to 599.
        message: What its answer says.
        retry_seconds: After how many seconds it may be asked again; None if it does not say.
    """

    def __init__(self, status: int, message: str, retry_seconds: float | None = None) -> None:
        super().__init__(f"it answered {status}: {message}" if message else f"it answered {status}")
        self.status = status
        self.message = message
        self.retry_seconds = retry_seconds


def read_message(body: bytes) -> str:
    """Return what an error's body says, in one line; empty if that cannot be read.

    OpenAI, vLLM and llama-server have an object, Ollama and TGI a text.
    """
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return message_of(told.get("error", told)) if isinstance(told, dict) else ""


def message_of(error: Any) -> str:
    """Return the text of an error, whatever its form."""
    found = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    return " ".join(found.split())[:MESSAGE] if isinstance(found, str) else ""
