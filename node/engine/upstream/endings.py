"""Decides how a request ends that a server elsewhere did not answer; no I/O."""

from typing import Final

from node.engine.protocol import Declined, Dropped, Finished, Generate, Tokenize
from node.engine.upstream.address import Address
from node.engine.upstream.check import REFUSED_KEY, key_fault
from node.engine.upstream.errors import StatusError, UnreachableError, UpstreamError
from node.requests.request import Chat

_LATER: Final = (408, 425, 429, 503)
"""Statuses of a server that has begun nothing and may take the request later."""
_CHAT: Final = "/chat/completions"
_NO_PATH: Final = (404, 405, 501)
_TOO_LONG: Final = ("context length", "context size", "context_length", "maximum context")
"""In the errors of vLLM, SGLang, llama-server and OpenAI for a prompt that does not fit."""


def path_of(command: Generate | Tokenize) -> str:
    """Return the path that answers a request."""
    is_chat = isinstance(command.prompt, Chat)
    if isinstance(command, Tokenize):
        return "/detokenize" if isinstance(command.prompt, tuple) else "/tokenize"
    if command.embed:
        return "/rerank" if is_chat else "/embeddings"
    return _CHAT if is_chat else "/completions"


def ending_of(
    command: Generate | Tokenize, error: UpstreamError, address: Address, message: str
) -> Finished | Declined | Dropped:
    """Return how the request ends.

    Args:
        command: The request.
        error: What the server did.
        address: The server.
        message: The error's text, without the key.
    """
    request = command.request
    status = error.status if isinstance(error, StatusError) else 0
    if isinstance(error, UnreachableError) or status in _LATER:
        return Declined(request)
    if not isinstance(error, StatusError) or (status >= 500 and status not in _NO_PATH):
        return Dropped(request, "crashed")
    if status in REFUSED_KEY:
        return Finished(request, "failed", key_fault(address, status))
    if status in _NO_PATH and path_of(command) != _CHAT:
        text = f"the server of this model has no {path_of(command)}: {message}"
        return Finished(request, "unsupported", text, parameter="model")
    if status < 400 or status in _NO_PATH:
        return Finished(request, "failed", f"{address} cannot answer: {message}")
    return _refusal(command, error, message)


def is_of_server(error: UpstreamError) -> bool:
    """Return whether the fault is the server's, not the request's, so that it must be checked."""
    if not isinstance(error, StatusError):
        return True
    return not 400 <= error.status < 500 or error.status in (*REFUSED_KEY, *_NO_PATH)


def _refusal(command: Generate | Tokenize, error: StatusError, message: str) -> Finished:
    request = command.request
    if isinstance(command, Generate) and command.said:
        # It took the same request before, without the words that it is to continue.
        text = f"the answer broke off, and the server does not continue it: {message}"
        return Finished(request, "parted", text)
    if any(sign in error.message.lower() for sign in _TOO_LONG):
        return Finished(request, "too_long", message)
    return Finished(request, "refused", f"the model's server refuses the request: {message}")
