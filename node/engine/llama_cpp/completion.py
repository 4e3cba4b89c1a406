"""Translates between the engine's messages and llama-server's HTTP bodies; no I/O.

llama-server documents its endpoints in `tools/server/README.md` of the llama.cpp project.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from node.engine.llama_cpp.errors import EngineLostError
from node.engine.protocol import Evaluated, Finished, Generate, Result, Sampled
from node.requests.request import Candidate, EndReason, Likelihood

T = TypeVar("T")

_FINAL_FIELDS: Final = ("content", "tokens", "stop", "stop_type", "tokens_predicted", "timings")
"""What the last event has to hold; without a choice it repeats prompt and settings."""
_UNKNOWN_BUILD: Final = "b0-unknown"
_TOO_LARGE: Final = "is too large to process"
"""Of an embedding model's input; called a fault of the server, though it is the request's."""
KEPT_TOKENS: Final = (
    *("<think>", "</think>", "[THINK]", "[/THINK]", "<tool_call>", "</tool_call>"),
    *("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]", "<|python_tag|>"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>"),
    *("<｜tool▁call▁end｜>", "<｜tool▁sep｜>"),
    *("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|call|>", "<|return|>"),
    "<|constrain|>",
)
"""Control tokens whose text is part of an answer, because they tell its parts from each other."""
_SEEDS: Final = 2**32 - 1
"""Seeds that llama-server keeps; by the next one it draws a seed itself."""
_STRIDE: Final = 0x9E3779B1
"""An odd number, so that every start of an answer has its own seed."""


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


class Grammar(msgspec.Struct, frozen=True):
    """What an answer must follow; one without text allows anything."""

    text: str = ""
    is_lazy: bool = False
    """Whether it applies only from a trigger on."""
    triggers: tuple[dict[str, Any], ...] = ()
    """In llama-server's form."""

    def __bool__(self) -> bool:
        """Return whether it forbids anything."""
        return bool(self.text)


FREE: Final = Grammar()


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


class Character(msgspec.Struct, frozen=True):
    """A text of a request's answer that took several tokens, of which only the last is known.

    llama-server holds tokens back until they end with a whole character.
    """

    request: int
    last_token: int
    text: str


class Piece(msgspec.Struct, frozen=True):
    """One token of `/tokenize` with its text; the bytes if they are not a text."""

    id: int
    piece: str | list[int]

    @property
    def octets(self) -> bytes:
        """The token's bytes."""
        return self.piece.encode() if isinstance(self.piece, str) else bytes(self.piece)


class _Refusal(msgspec.Struct, frozen=True):
    error: Failure


_chunk_decoder: Final = msgspec.json.Decoder(Chunk)


def decode(body: bytes, kind: type[T]) -> T:
    """Return the content of an answer.

    Raises:
        EngineLostError: It is not what llama-server answers.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineLostError(f"an invalid answer: {error}") from error


def completion_body(
    command: Generate,
    prompt: list[int],
    max_tokens: int,
    *,
    cached: bool,
    grammar: Grammar = FREE,
    kept: Sequence[str] = KEPT_TOKENS,
) -> bytes:
    """Return the body for `/completion` that continues a request's answer.

    Args:
        command: The request.
        prompt: Its prompt; the answer's prior tokens follow it.
        max_tokens: How many more to draw, at least 1.
        cached: Whether tokens that the slot still holds need not be evaluated again.
        grammar: What the answer must follow.
        kept: Control tokens whose text is part of the answer. The server tokenizes each of them,
            which takes milliseconds with a large vocabulary: name only those that the model has.
    """
    sampling, prior = command.sampling, command.prior
    body = {
        "prompt": [*prompt, *prior],
        "n_predict": max_tokens,
        "stream": True,
        "return_tokens": True,
        "return_progress": True,
        "cache_prompt": cached,
        "response_fields": _FINAL_FIELDS,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "typical_p": sampling.typical_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": sampling.logit_bias,
        "ignore_eos": command.min_tokens >= len(prior) + max_tokens,
        "grammar": grammar.text,
        "grammar_lazy": grammar.is_lazy,
        "grammar_triggers": grammar.triggers,
        "preserved_tokens": kept,
        "repeat_penalty": sampling.repetition_penalty,
        # The server draws all tokens of an answer from one sequence of random numbers; its
        # continuation must not begin that sequence again.
        "seed": (sampling.seed + len(prior) * _STRIDE) % _SEEDS,
    }
    if command.logprobs is not None:
        body["n_probs"] = max(1, command.logprobs)
    return msgspec.json.encode(body)


def tokens_left(command: Generate, prompt_tokens: int, context_length: int) -> int:
    """Return how many tokens the answer may still have; 0 or less if it is complete."""
    room = context_length - prompt_tokens
    return min(command.max_tokens or room, room) - len(command.prior)


class CompletionReader:
    """Turns the stream of one completion into results, in their order.

    Args:
        request: The request's identity.
    """

    def __init__(self, request: int) -> None:
        self._request = request
        self._drawn = 0
        self._rest = b""
        self._held: list[Result | Character] = []
        """A token without text, which may be the one that ends the answer."""
        self.finished: Finished | None = None
        """How the request ended, once the last event has come."""

    def feed(self, received: bytes) -> list[Result | Character]:
        """Return the results in received bytes; an incomplete line is kept for the next call.

        Raises:
            EngineLostError: The stream is not llama-server's, or reports a fault of the server.
        """
        *lines, self._rest = (self._rest + received).split(b"\n")
        results: list[Result | Character] = []
        for line in lines:
            if line.startswith(b"data: "):
                self._read(line[6:], results)
        return results

    def _read(self, event: bytes, results: list[Result | Character]) -> None:
        try:
            chunk = _chunk_decoder.decode(event)
        except msgspec.DecodeError as error:
            raise EngineLostError(f"an invalid event: {error}") from error
        if chunk.error is not None:
            self.finished = refused(self._request, chunk.error)
        elif chunk.prompt_progress is not None:
            progress = chunk.prompt_progress
            results.append(
                Evaluated(self._request, progress.processed, progress.total, progress.cache)
            )
        elif chunk.stop:
            if chunk.stop_type != "eos":
                results.extend(self._held)
            self.finished = Finished(
                self._request,
                _end_reason(chunk.stop_type),
                "",
                chunk.timings.draft_n,
                chunk.timings.draft_n_accepted,
            )
        elif chunk.tokens:
            self._draw(chunk, results)

    def _draw(self, chunk: Chunk, results: list[Result | Character]) -> None:
        results.extend(self._held)
        self._held = []
        count = chunk.tokens_predicted - self._drawn
        self._drawn = chunk.tokens_predicted
        token = chunk.tokens[-1]
        if count > 1 and chunk.content:
            results.append(Character(self._request, token, chunk.content))
        else:
            held_or_sent = results if chunk.content else self._held
            likelihood = next((one.likelihood for one in chunk.completion_probabilities), None)
            text = chunk.content.encode()
            held_or_sent.append(Sampled(self._request, token, text, likelihood))


def spell(character: Character, pieces: list[Piece]) -> list[Result]:
    """Return the tokens of a text whose tokens were not all reported.

    Args:
        character: The text.
        pieces: Its tokens; the first may be a space that the tokenizer adds.
    """
    request, wanted = character.request, character.text.encode()
    for first in range(len(pieces)):
        if b"".join(piece.octets for piece in pieces[first:]) == wanted:
            return [Sampled(request, piece.id, piece.octets) for piece in pieces[first:]]
    return [Sampled(request, character.last_token, wanted)]


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


def _end_reason(stop_type: str) -> EndReason:
    return "length" if stop_type == "limit" else "stop"


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
