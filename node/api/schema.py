"""The bodies of the OpenAI-compatible API: what is read, what is refused, what is answered.

Source of names and forms: OpenAI's API reference for completions and chat completions. A field
that is not known or not supported is refused by name, never ignored.
"""

import re
import secrets
from typing import Annotated, Any, Final, Literal

import msgspec

from node.engine.protocol import Sampling
from node.errors import InvalidRequestError, RequestError

_NonNegative = Annotated[float, msgspec.Meta(ge=0, le=100)]
_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_Penalty = Annotated[float, msgspec.Meta(gt=0, le=2)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

_PARAMETER: Final = re.compile(r"`\$\.?([^`]+)`|(?:unknown|required) field `([^`]+)`")
MAX_STOPS: Final = 4


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream carries besides text."""

    include_usage: bool = False


class _SamplingRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What both kinds of request say about how to generate."""

    model: str | None = None
    max_tokens: _Count | None = None
    temperature: _NonNegative | None = None
    top_p: _Share | None = None
    top_k: _Count | None = None
    repetition_penalty: _Penalty | None = None
    seed: _Seed | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    n: Literal[1] | None = None

    def sampling(self) -> Sampling:
        """Give the sampling asked for, with what is missing filled in."""
        return Sampling(
            temperature=0.8 if self.temperature is None else self.temperature,
            top_k=self.top_k or 40,
            top_p=0.95 if self.top_p is None else self.top_p,
            repetition_penalty=self.repetition_penalty or 1.0,
            seed=secrets.randbits(63) if self.seed is None else self.seed,
        )

    def stops(self) -> tuple[str, ...]:
        """Give the stop sequences.

        Raises:
            InvalidRequestError: There are too many, or one is empty.
        """
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stops) > MAX_STOPS or "" in stops:
            message = f"stop takes one to {MAX_STOPS} sequences, none of them empty"
            raise InvalidRequestError(message, parameter="stop")
        return stops

    def wants_usage(self) -> bool:
        """Whether a stream ends with an account of its tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(_SamplingRequest, frozen=True, kw_only=True):
    """Body of `POST /v1/completions`."""

    prompt: str


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of a chat."""

    role: str
    content: str


class ChatRequest(_SamplingRequest, frozen=True, kw_only=True):
    """Body of `POST /v1/chat/completions`."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    max_completion_tokens: _Count | None = None


completion_decoder = msgspec.json.Decoder(CompletionRequest)
chat_decoder = msgspec.json.Decoder(ChatRequest)


def decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """Read a body.

    Raises:
        InvalidRequestError: It is not JSON, or a field is unknown, missing or of a wrong type.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        found = _PARAMETER.search(str(error))
        parameter = next(filter(None, found.groups()), None) if found else None
        raise InvalidRequestError(str(error), parameter=parameter) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from error


def error_body(error: RequestError) -> dict[str, Any]:
    """Give OpenAI's error object."""
    return {
        "error": {
            "message": str(error),
            "type": error.kind,
            "param": error.parameter,
            "code": error.code,
        }
    }


class Usage(msgspec.Struct, frozen=True):
    """Tokens that a request took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]


class Form:
    """How one answer is written: an object for a whole one, chunks for a stream.

    Args:
        model: The model's id.
        created: Unix time of the answer, whole seconds.
        chat: Whether it is a chat completion.
    """

    def __init__(self, model: str, created: int, *, chat: bool) -> None:
        self.identity = ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12)
        self._model = model
        self._created = created
        self._chat = chat

    def whole(self, text: str, finish_reason: str, usage: Usage) -> dict[str, Any]:
        """Write the whole answer."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason, "logprobs": None}
        if self._chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        return self._object([choice], chunk=False) | {"usage": usage}

    def first(self) -> dict[str, Any] | None:
        """Write what opens a stream, where the form has such."""
        if not self._chat:
            return None
        return self._chunk({"role": "assistant", "content": ""}, None)

    def piece(self, text: str) -> dict[str, Any]:
        """Write one piece of a stream."""
        return self._chunk({"content": text}, None)

    def last(self, finish_reason: str) -> dict[str, Any]:
        """Write what ends a stream's text."""
        return self._chunk({}, finish_reason)

    def usage(self, usage: Usage) -> dict[str, Any]:
        """Write the account after a stream's end."""
        return self._object([], chunk=True) | {"usage": usage}

    def _chunk(self, delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason, "logprobs": None}
        if self._chat:
            choice["delta"] = delta
        else:
            choice["text"] = delta.get("content", "")
        return self._object([choice], chunk=True)

    def _object(self, choices: list[dict[str, Any]], *, chunk: bool) -> dict[str, Any]:
        kind = "text_completion"
        if self._chat:
            kind = "chat.completion.chunk" if chunk else "chat.completion"
        return {
            "id": self.identity,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }
