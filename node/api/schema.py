"""The bodies that the OpenAI-compatible API reads: what is understood and what is refused.

Source of names and forms: OpenAI's API reference. A field that is not known is refused by name,
never ignored; one that is known but not supported is taken where its value says what happens
anyway (`n: 1`, `tools: []`), because clients send such, and refused by name otherwise.
"""

import re
import secrets
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from node.engine.protocol import Sampling
from node.errors import InvalidRequestError, RequestError

MAX_STOPS: Final = 4
MAX_STOP_CHARACTERS: Final = 1000
"""A guess: the search for a stop holds back as much text as the longest one has."""
MAX_INPUTS: Final = 2048
"""Texts in one request for embeddings, as at OpenAI."""

_NonNegative = Annotated[float, msgspec.Meta(ge=0, le=100)]
_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_Penalty = Annotated[float, msgspec.Meta(gt=0, le=2)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_STOP_CHARACTERS)]
_OneText = Annotated[list[str], msgspec.Meta(min_length=1, max_length=1)]
_Input = Annotated[str, msgspec.Meta(min_length=1)]

# What a field that is not supported may say: nothing but its default.
_Zero = Annotated[float, msgspec.Meta(ge=0, le=0)]
_EmptyList = Annotated[list[Any], msgspec.Meta(max_length=0)]
_EmptyObject = Annotated[dict[str, Any], msgspec.Meta(max_length=0)]
_EmptyText = Annotated[str, msgspec.Meta(max_length=0)]

_PARAMETER: Final = re.compile(r"`\$\.?([^`]+)`|(?:unknown|required) field `([^`]+)`")
_PART_KIND: Final = re.compile(r"messages\[\d+\]\.content\[\d+\]\.type")


class Off:
    """A switch that can only be off."""


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream carries besides text."""

    include_usage: bool = False
    include_obfuscation: Off | None = None


class TextFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one form of answers that there is."""

    type: Literal["text"]


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every request may say."""

    model: str | None = None
    user: str | None = None
    """Who asks; no answer depends on it."""


class _TextUnsupported(_Body, frozen=True, kw_only=True):
    n: Literal[1] | None = None
    frequency_penalty: _Zero | None = None
    presence_penalty: _Zero | None = None
    logit_bias: _EmptyObject | None = None
    logprobs: Off | None = None


class _SamplingRequest(_TextUnsupported, frozen=True, kw_only=True):
    """What both kinds of request for text say about how to generate."""

    max_tokens: _Count | None = None
    temperature: _NonNegative | None = None
    top_p: _Share | None = None
    top_k: _Count | None = None
    repetition_penalty: _Penalty | None = None
    repeat_penalty: _Penalty | None = None
    """llama.cpp's name for `repetition_penalty`."""
    seed: _Seed | None = None
    stop: _Stop | Annotated[list[_Stop], msgspec.Meta(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def output_limit(self) -> int:
        """The most tokens that are wanted; 0 for as many as the context holds."""
        return self.max_tokens or 0

    def sampling(self) -> Sampling:
        """Give the sampling asked for, with what is missing filled in."""
        return Sampling(
            temperature=0.8 if self.temperature is None else self.temperature,
            top_k=self.top_k or 40,
            top_p=0.95 if self.top_p is None else self.top_p,
            repetition_penalty=self.repetition_penalty or self.repeat_penalty or 1.0,
            seed=secrets.randbits(63) if self.seed is None else self.seed,
        )

    def stops(self) -> tuple[str, ...]:
        """Give the stop sequences."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def wants_usage(self) -> bool:
        """Whether a stream ends with an account of its tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def check(self) -> None:
        """Look at what no single field shows.

        Raises:
            InvalidRequestError: The fields do not go together.
        """
        if self.wants_usage() and not self.stream:
            message = "stream_options are for streams: set stream as well"
            raise InvalidRequestError(message, parameter="stream_options")
        if None not in (self.repeat_penalty, self.repetition_penalty):
            message = "repeat_penalty is another name of repetition_penalty: give one of them"
            raise InvalidRequestError(message, parameter="repeat_penalty")


class _CompletionUnsupported(_SamplingRequest, frozen=True, kw_only=True):
    best_of: Literal[1] | None = None
    echo: Off | None = None
    suffix: _EmptyText | None = None


class CompletionRequest(_CompletionUnsupported, frozen=True, kw_only=True):
    """Body of `POST /v1/completions`."""

    prompt: str | _OneText

    @property
    def text(self) -> str:
        """The prompt, of which there is one."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A piece of a message's text, the only kind of piece that there is."""

    type: Literal["text"]
    text: str


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of a chat. An answer's own message can be sent back as it came."""

    role: Literal["developer", "system", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None
    """For the template, which may write it."""

    refusal: _EmptyText | None = None
    annotations: _EmptyList | None = None
    audio: None = None
    function_call: None = None
    tool_calls: _EmptyList | None = None

    @property
    def text(self) -> str:
        """The content; parts are put on lines of their own, as vLLM and llama.cpp do."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class _ChatUnsupported(_SamplingRequest, frozen=True, kw_only=True):
    audio: None = None
    function_call: Literal["none", "auto"] | None = None
    functions: _EmptyList | None = None
    metadata: _EmptyObject | None = None
    modalities: list[Literal["text"]] | None = None
    parallel_tool_calls: bool | None = None
    """Both values say the same where there are no tools."""
    prediction: None = None
    prompt_cache_key: None = None
    reasoning_effort: Literal["none"] | None = None
    response_format: TextFormat | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Off | None = None
    tool_choice: Literal["none", "auto"] | None = None
    tools: _EmptyList | None = None
    top_logprobs: Literal[0] | None = None
    verbosity: Literal["medium"] | None = None
    web_search_options: None = None


class ChatRequest(_ChatUnsupported, frozen=True, kw_only=True):
    """Body of `POST /v1/chat/completions`."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    max_completion_tokens: _Count | None = None
    safety_identifier: str | None = None
    """As `user`, which it replaces at OpenAI."""

    @property
    def output_limit(self) -> int:
        """The most tokens that are wanted; the tighter of two limits holds."""
        return min(filter(None, (self.max_completion_tokens, self.max_tokens)), default=0)


class _EmbeddingUnsupported(_Body, frozen=True, kw_only=True):
    dimensions: None = None


class EmbeddingRequest(_EmbeddingUnsupported, frozen=True, kw_only=True):
    """Body of `POST /v1/embeddings`."""

    input: _Input | Annotated[list[_Input], msgspec.Meta(min_length=1, max_length=MAX_INPUTS)]
    encoding_format: Literal["float", "base64"] | None = None

    def texts(self) -> list[str]:
        """Give the texts, one or many."""
        return [self.input] if isinstance(self.input, str) else self.input

    def check(self) -> None:
        """Nothing here depends on another field."""


_UNSUPPORTED: Final = frozenset(
    name
    for fields in (
        _TextUnsupported,
        _CompletionUnsupported,
        _ChatUnsupported,
        _EmbeddingUnsupported,
    )
    for name in fields.__annotations__
)


def _switch_off(kind: type, given: object) -> Any:
    if kind is Off and given is False:
        return Off()
    raise ValueError("Expected `false` or `null`")


_Request = TypeVar("_Request", CompletionRequest, ChatRequest)

completion_decoder = msgspec.json.Decoder(CompletionRequest, dec_hook=_switch_off)
chat_decoder = msgspec.json.Decoder(ChatRequest, dec_hook=_switch_off)
embedding_decoder = msgspec.json.Decoder(EmbeddingRequest, dec_hook=_switch_off)


def decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """Read a body.

    Raises:
        InvalidRequestError: It is not JSON, or a field is unknown, missing, of a wrong type, or
            asks for what is not supported.
    """
    try:
        asked = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _refusal(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from error
    asked.check()
    return asked


def convert(fields: dict[str, Any], kind: type[_Request]) -> _Request:
    """Read what came in another form than JSON, with the same limits.

    Raises:
        InvalidRequestError: A field is unknown, missing, of a wrong type, or asks for what is not
            supported.
    """
    try:
        asked = msgspec.convert(fields, kind, dec_hook=_switch_off)
    except msgspec.ValidationError as error:
        raise _refusal(error) from error
    asked.check()
    return asked


def _refusal(error: msgspec.ValidationError) -> InvalidRequestError:
    found = _PARAMETER.search(str(error))
    parameter = next(filter(None, found.groups()), None) if found else None
    message = str(error)
    name = re.split(r"[.\[]", parameter)[0] if parameter else ""
    if name in _UNSUPPORTED:
        message = f"{name} is not supported beyond its default: leave it out ({error})"
    elif parameter and _PART_KIND.fullmatch(parameter):
        message = f"a message's parts can only be text ({error})"
    return InvalidRequestError(message, parameter=parameter)


class ErrorDetail(msgspec.Struct, frozen=True):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every answer whose status is 400 or more."""

    error: ErrorDetail


def error_body(error: RequestError) -> ErrorBody:
    """Give OpenAI's error object."""
    return ErrorBody(ErrorDetail(str(error), error.kind, error.parameter, error.code))
