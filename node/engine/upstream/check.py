"""Finds out whether an engine elsewhere serves the model, with the node's key."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from node.engine.upstream.address import Address
from node.engine.upstream.client import UpstreamClient
from node.engine.upstream.errors import StatusError

REFUSED_KEY: Final = (401, 403)
TOO_MANY: Final = 429
_BUSY: Final = (408, 425, TOO_MANY)
_SHOWN: Final = 10
"""Names of other models in an error."""
_KINDS: Final[Mapping[str, str]] = {"vllm": "vLLM", "sglang": "SGLang", "llamacpp": "llama.cpp"}
"""Servers that say what they are, by `owned_by` of their models. All of them can continue the last
message of a chat."""


class UnusableError(Exception):
    """The server answers but does not serve the model; the text says what to change."""


@dataclass(frozen=True)
class Served:
    """What a server says of a model."""

    kind: str
    """Which server it is; empty if it does not say."""
    context_length: int
    """The positions of its context; 0 if it does not say."""


class _Model(msgspec.Struct, frozen=True):
    id: str
    owned_by: Any = None
    max_model_len: Any = None


class _Models(msgspec.Struct, frozen=True):
    data: list[_Model]


Check = Callable[[UpstreamClient, Address], Awaitable[Served]]


async def check(client: UpstreamClient, address: Address) -> Served:
    """Return what the server says of the model.

    A server may show its models to everyone and its answers to its users only, as llama-server
    does. A request without any field is refused by every server, but not before its key.

    Raises:
        UnusableError: It does not serve the model, or not to this node.
        UpstreamError: It does not answer, or is not ready.
    """
    found = await find_model(client, address)
    try:
        await client.ask("/chat/completions", {})
    except StatusError as error:
        if error.status in REFUSED_KEY:
            raise UnusableError(key_fault(address, error.status)) from error
    return found


async def find_model(client: UpstreamClient, address: Address) -> Served:
    """Return what the server lists of the model; raises like `check`."""
    try:
        body = await client.ask("/models")
        models = msgspec.json.decode(body, type=_Models).data
    except StatusError as error:
        if error.status in REFUSED_KEY:
            raise UnusableError(key_fault(address, error.status)) from error
        if error.status < 500 and error.status not in _BUSY:
            message = f"{address.url}/models: {error}: does the URL end where OpenAI's paths begin?"
            raise UnusableError(message) from error
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"{address.url}/models is not a list of models: does the URL end in /v1?"
        raise UnusableError(message) from error
    for model in models:
        if model.id == address.model:
            return _served(model)
    raise UnusableError(
        f"{address.url} does not serve {address.model!r}; it lists {_names(models)}"
    )


def key_fault(address: Address, status: int) -> str:
    """Return the error of a server that refuses this node's key, without what the server says."""
    if address.key_file is None:
        return f"{address.url} answered {status}: it requires a key, set key-file="
    return f"{address.url} answered {status}: it refuses the key in {address.key_file}"


def _served(model: _Model) -> Served:
    kind = _KINDS.get(model.owned_by, "") if isinstance(model.owned_by, str) else ""
    length = model.max_model_len
    is_length = isinstance(length, int) and not isinstance(length, bool) and 0 < length < 2**31
    return Served(kind, length if is_length else 0)


def _names(models: Sequence[_Model]) -> str:
    names = ", ".join(repr(model.id[:100]) for model in models[:_SHOWN])
    return names + (" and more" if len(models) > _SHOWN else "") if names else "none"
