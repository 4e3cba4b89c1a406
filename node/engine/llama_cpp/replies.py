"""What llama-server answers: the bodies of its responses, and its errors; no I/O.

It documents its endpoints in `tools/server/README.md` of the llama.cpp project.
"""

from typing import Final, TypeVar

import msgspec

from node.engine.llama_cpp.errors import EngineLostError
from node.engine.protocol import Finished
from node.requests.request import Candidate, Likelihood

T = TypeVar("T")

_UNKNOWN_BUILD: Final = "b0-unknown"
_TOO_LARGE: Final = "is too large to process"
"""Of an embedding model's input; called a fault of the server, though it is the request's."""


class Progress(msgspec.Struct, frozen=True):
    """How much of the prompt is evaluated, `cache` tokens without work."""

    total: int
    cache: int
    processed: int


class Timings(msgspec.Struct, frozen=True):
    """The part of the last event that tells about speculation."""

    draft_n: int = 0
    draft_n_accepted: int = 0


class Failure(msgspec.Struct, frozen=True):
    """Why llama-server does not answer a request, or fails in the middle of it."""

    message: str = ""
    type: str = ""
    code: int = 500


class Likely(msgspec.Struct, frozen=True):
    """A token with its likelihood."""

    id: int
    bytes: list[int]
    logprob: float
    top_logprobs: list["Likely"] = []

    @property
    def likelihood(self) -> Likelihood:
        """Its likelihood, and the likeliest tokens at its place."""
        top = (Candidate(one.id, bytes(one.bytes), one.logprob) for one in self.top_logprobs)
        return Likelihood(self.logprob, tuple(top))


class Chunk(msgspec.Struct, frozen=True):
    """One event of the stream of `/completion`."""

    content: str = ""
    tokens: list[int] = []
    stop: bool = False
    stop_type: str = ""
    tokens_predicted: int = 0
    prompt_progress: Progress | None = None
    timings: Timings = Timings()
    error: Failure | None = None
    completion_probabilities: list[Likely] = []


class Piece(msgspec.Struct, frozen=True):
    """One token of `/tokenize` with its text; the bytes if they are not a text."""

    id: int
    piece: str | list[int]

    @property
    def octets(self) -> bytes:
        """The token's bytes."""
        return self.piece.encode() if isinstance(self.piece, str) else bytes(self.piece)


class _SlotSettings(msgspec.Struct, frozen=True):
    n_ctx: int


class Properties(msgspec.Struct, frozen=True):
    """What `/props` says of a loaded model."""

    default_generation_settings: _SlotSettings
    total_slots: int
    build_info: str = ""

    @property
    def build(self) -> str:
        """The build, such as `b6123-abc1234`; empty if unknown."""
        return "" if self.build_info == _UNKNOWN_BUILD else self.build_info

    @property
    def slot_tokens(self) -> int:
        """The positions of one slot's context."""
        return self.default_generation_settings.n_ctx


class _Refusal(msgspec.Struct, frozen=True):
    error: Failure


def decode(body: bytes, kind: type[T]) -> T:
    """Return the content of an answer.

    Raises:
        EngineLostError: It is not what llama-server answers.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineLostError(f"an invalid answer: {error}") from error


def read_failure(body: bytes) -> Failure:
    """Return why a request was not answered, whatever the body contains."""
    try:
        return msgspec.json.decode(body, type=_Refusal).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Failure(body[:200].decode(errors="replace"))


def refused(request: int, failure: Failure) -> Finished:
    """Return the end of a request that llama-server does not accept.

    Raises:
        EngineLostError: The fault is the server's, so another one may answer.
    """
    message = " ".join(failure.message.split())
    if failure.type == "exceed_context_size_error" or _TOO_LARGE in message:
        return Finished(request, "too_long", message)
    if failure.code < 500 or failure.type == "not_supported_error":
        return Finished(request, "refused", f"the engine refuses the request: {message}")
    raise EngineLostError(message)
