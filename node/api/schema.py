"""The bodies of the OpenAI-compatible API: the fields that it supports, and its error object.

Source of names and formats: OpenAI's API reference. `node.api.neutral` lists other accepted fields.
"""

import secrets
from typing import Annotated, Final, Literal

import msgspec

from node.errors import InvalidRequestError, RequestError
from node.requests.request import Sampling

MAX_STOPS: Final = 64
MAX_STOP_CHARACTERS: Final = 1000
"""A guess: the search for a stop sequence holds back as much text as the longest one has."""
MAX_INPUTS: Final = 2048
"""Prompts or texts in one request, as at OpenAI."""
MAX_LIKELIEST: Final = 20
"""`top_logprobs`, as at OpenAI."""
MAX_ANSWERS: Final = 128
"""`n`, as at OpenAI."""
EVERY_TOKEN: Final = 2**31 - 1
"""A `top_k` that excludes no token."""

_NonNegative = Annotated[float, msgspec.Meta(ge=0, le=100)]
_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Change = Annotated[float, msgspec.Meta(ge=-2, le=2)]
_Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]
_TokenName = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,9}$")]
_Penalty = Annotated[float, msgspec.Meta(gt=0, le=2)]
Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Likeliest = Annotated[int, msgspec.Meta(ge=0, le=MAX_LIKELIEST)]
_Answers = Annotated[int, msgspec.Meta(ge=1, le=MAX_ANSWERS)]
_TopK = Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]
_Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_STOP_CHARACTERS)]
_Input = Annotated[str, msgspec.Meta(min_length=1)]
TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_TokenIds = Annotated[list[TokenId], msgspec.Meta(min_length=1)]
_Texts = Annotated[list[str | TokenId | _TokenIds], msgspec.Meta(min_length=1)]
_Inputs = Annotated[list[_Input | TokenId | _TokenIds], msgspec.Meta(min_length=1)]


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream contains besides text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    """vLLM's field: each chunk has the usage so far."""


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fields of every request."""

    model: str | None = None
    user: str | None = None
    """The caller's own user id; it does not affect the answer."""
    metadata: dict[str, str] | None = None
    """The caller's own notes; they do not affect the answer."""

    def check(self) -> None:
        """Check what involves more than one field.

        Raises:
            InvalidRequestError: The fields contradict each other.
        """


class TextRequest(Body, frozen=True, kw_only=True):
    """Fields of completion and chat requests: how to generate text."""

    max_tokens: Count | None = None
    n: _Answers | None = None
    """Answers to each prompt; they differ by their seeds, which count up."""
    temperature: _NonNegative | None = None
    top_p: _Share | None = None
    top_k: _TopK | None = None
    """0 and -1 consider every token."""
    repetition_penalty: _Penalty | None = None
    repeat_penalty: _Penalty | None = None
    """llama.cpp's name for `repetition_penalty`."""
    min_p: _Fraction | None = None
    typical_p: _Share | None = None
    presence_penalty: _Change | None = None
    frequency_penalty: _Change | None = None
    logit_bias: dict[_TokenName, _Bias] | None = None
    """By token id: what is added to the token's logit."""
    seed: _Seed | None = None
    stop: Stop | Annotated[list[Stop], msgspec.Meta(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[list[TokenId], msgspec.Meta(max_length=MAX_STOPS)] | None = None
    min_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None = None
    """Tokens before which neither the model nor a stop ends the answer."""
    ignore_eos: bool | None = None
    """Do not let the model end its answer."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def output_limit(self) -> int:
        """The caller's limit of tokens; 0 for as many as fit in the context."""
        return self.max_tokens or 0

    @property
    def likeliest(self) -> int | None:
        """How many likely tokens to report with each token's likelihood; None for neither."""
        return None

    @property
    def echoes(self) -> bool:
        """Whether the answer begins with the prompt."""
        return False

    @property
    def answers(self) -> int:
        """The number of answers to each prompt."""
        return self.n or 1

    def sampling(self) -> Sampling:
        """Return the sampling settings, with defaults for missing ones."""
        top_k = 40 if self.top_k is None else self.top_k
        return Sampling(
            temperature=0.8 if self.temperature is None else self.temperature,
            top_k=top_k if top_k > 0 else EVERY_TOKEN,
            top_p=0.95 if self.top_p is None else self.top_p,
            repetition_penalty=self.repetition_penalty or self.repeat_penalty or 1.0,
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            min_p=self.min_p or 0.0,
            typical_p=1.0 if self.typical_p is None else self.typical_p,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=tuple((int(token), by) for token, by in (self.logit_bias or {}).items()),
        )

    def stops(self) -> tuple[str, ...]:
        """Return the stop sequences."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def wants_usage(self) -> bool:
        """Return whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def wants_running_usage(self) -> bool:
        """Return whether each chunk of a stream has the usage so far."""
        return self.stream_options is not None and bool(self.stream_options.continuous_usage_stats)

    def check(self) -> None:
        """Check that stream options come with a stream, and that only one penalty is given.

        Raises:
            InvalidRequestError: The fields contradict each other.
        """
        if (self.wants_usage() or self.wants_running_usage()) and not self.stream:
            message = "`stream_options` needs `stream`: set stream to true as well"
            raise InvalidRequestError(message, parameter="stream_options")
        if self.output_limit and (self.min_tokens or 0) > self.output_limit:
            message = (
                f"`min_tokens` is larger than the answer's limit of {self.output_limit} tokens"
            )
            raise InvalidRequestError(message, parameter="min_tokens")
        penalties = {self.repeat_penalty, self.repetition_penalty} - {None}
        if len(penalties) > 1:
            message = "`repeat_penalty` is another name for `repetition_penalty`: send one of them"
            raise InvalidRequestError(message, parameter="repeat_penalty")


class CompletionRequest(TextRequest, frozen=True, kw_only=True):
    """Body of `POST /v1/completions`."""

    prompt: str | _Texts
    """A text, the ids of its tokens, or a list of either."""
    best_of: _Answers | None = None
    """Accepted if it equals `n`."""
    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None = None
    """0 only with `echo`."""
    logprobs: Likeliest | None = None
    """Report each token's log-probability, and this many of the likeliest tokens."""
    echo: bool | None = None
    """Begin the answer with the prompt."""

    @property
    def likeliest(self) -> int | None:
        """How many likely tokens to report with each token's likelihood; None for neither."""
        return self.logprobs

    @property
    def echoes(self) -> bool:
        """Whether the answer begins with the prompt."""
        return bool(self.echo)

    def prompts(self) -> list[str | tuple[int, ...]]:
        """Return the prompts as a list, also for a single one."""
        return _listed(self.prompt)

    def check(self) -> None:
        """Also check that the prompts are of one kind, and how many answers are wanted.

        Raises:
            InvalidRequestError: The fields contradict each other.
        """
        super().check()
        _check_listed(self.prompt, "prompt")
        if self.max_tokens == 0 and not self.echo:
            message = "`max_tokens` 0 needs `echo`: set echo to true, or max_tokens to at least 1"
            raise InvalidRequestError(message, parameter="max_tokens")
        if self.best_of not in (None, self.answers):
            message = f"`best_of` must equal `n` ({self.answers}): this API does not rank answers"
            raise InvalidRequestError(message, parameter="best_of")
        wanted = len(self.prompts()) * self.answers
        if wanted > MAX_INPUTS:
            message = f"`n` asks for {wanted} answers in all: at most {MAX_INPUTS} in one request"
            raise InvalidRequestError(message, parameter="n")


class EmbeddingRequest(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/embeddings`."""

    input: _Input | _Inputs
    """A text, the ids of its tokens, or a list of either."""
    encoding_format: Literal["float", "base64"] | None = None

    def texts(self) -> list[str | tuple[int, ...]]:
        """Return the texts as a list, also for a single one."""
        return _listed(self.input)

    def check(self) -> None:
        """Check that the texts are of one kind.

        Raises:
            InvalidRequestError: They are not, or they are too many.
        """
        _check_listed(self.input, "input")


def _listed(given: str | list[str | int | list[int]]) -> list[str | tuple[int, ...]]:
    if isinstance(given, str):
        return [given]
    tokens = [one for one in given if isinstance(one, int)]
    if tokens:
        return [tuple(tokens)]
    return [
        one if isinstance(one, str) else tuple(one) for one in given if not isinstance(one, int)
    ]


def _check_listed(given: str | list[str | int | list[int]], name: str) -> None:
    kinds = {str} if isinstance(given, str) else set(map(type, given))
    if len(kinds) > 1:
        message = f"`{name}` mixes texts and tokens: send texts, token ids, or lists of token ids"
        raise InvalidRequestError(message, parameter=name)
    if kinds != {int} and len(given) > MAX_INPUTS and not isinstance(given, str):
        message = f"`{name}` has {len(given)} texts: send at most {MAX_INPUTS} in one request"
        raise InvalidRequestError(message, parameter=name)


class PromptUsage(msgspec.Struct, frozen=True):
    """Tokens of a request whose answer has none."""

    prompt_tokens: int
    total_tokens: int


class ErrorDetail(msgspec.Struct, frozen=True):
    """The error, in OpenAI's terms."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every response with a status of 400 or more."""

    error: ErrorDetail


def error_body(error: RequestError) -> ErrorBody:
    """Return OpenAI's error object."""
    return ErrorBody(ErrorDetail(str(error), error.kind, error.parameter, error.code))
