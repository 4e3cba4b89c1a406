"""Answers in one piece from an engine elsewhere: vectors, scores and tokens."""

import math
from typing import Any, TypeVar

import msgspec

from node.engine.protocol import (
    Counted,
    Embedded,
    Evaluated,
    Finished,
    Generate,
    Result,
    Tokenize,
    Tokenized,
)
from node.engine.upstream.address import Address
from node.engine.upstream.client import UpstreamClient
from node.engine.upstream.errors import BrokenError, StatusError
from node.engine.upstream.stream import TEMPLATE_TOKENS, within
from node.requests.request import Chat

T = TypeVar("T")


class _Vector(msgspec.Struct, frozen=True):
    embedding: list[float]


class _Vectors(msgspec.Struct, frozen=True):
    data: list[_Vector]
    usage: Any = None


class _Score(msgspec.Struct, frozen=True):
    relevance_score: float


class _Ranking(msgspec.Struct, frozen=True):
    results: list[_Score]
    usage: Any = None


class _Tokens(msgspec.Struct, frozen=True):
    tokens: list[int]


class _Text(msgspec.Struct, frozen=True):
    prompt: str | None = None
    content: str | None = None


async def vector(client: UpstreamClient, command: Generate, model: str) -> list[Result]:
    """Return the vector of a text, or the score of a document as a vector of one number.

    Raises:
        UpstreamError: The server does not answer, refuses, or sends an invalid answer.
    """
    prompt = command.prompt
    if isinstance(prompt, Chat):
        query, document = (turn["content"] for turn in prompt.turns)
        asked = {"model": model, "query": query, "documents": [document]}
        ranking = _decode(await client.ask("/rerank", asked), _Ranking)
        return _results(command, [score.relevance_score for score in ranking.results[:1]], ranking)
    asked = {"model": model, "input": prompt, "encoding_format": "float"}
    vectors = _decode(await client.ask("/embeddings", asked), _Vectors)
    return _results(command, vectors.data[0].embedding if vectors.data else [], vectors)


async def tokens(client: UpstreamClient, command: Tokenize, address: Address) -> list[Result]:
    """Return a prompt's tokens and text, from a server that has vLLM's or llama-server's paths.

    Raises:
        UpstreamError: As in `vector`.
    """
    prompt, model = command.prompt, address.model
    if isinstance(prompt, Chat):
        raise StatusError(501, "")
    if isinstance(prompt, str):
        asked: Any = {"model": model, "prompt": prompt, "content": prompt}
        found = _decode(await client.ask("/tokenize", asked, at_root=True), _Tokens)
        return [
            Tokenized(command.request, tuple(found.tokens), prompt),
            Finished(command.request, "stop", ""),
        ]
    asked = {"model": model, "tokens": prompt}
    text = _decode(await client.ask("/detokenize", asked, at_root=True), _Text)
    shown = Tokenized(command.request, prompt, text.prompt or text.content or "")
    return [shown, Finished(command.request, "stop", "")]


def _results(command: Generate, numbers: list[float], answer: _Vectors | _Ranking) -> list[Result]:
    """Return a vector and the tokens of its text.

    Raises:
        BrokenError: The numbers are not a vector.
    """
    if not numbers or not all(map(math.isfinite, numbers)):
        raise BrokenError("its answer contains no vector")
    request = command.request
    usage = answer.usage if isinstance(answer.usage, dict) else {}
    characters = len(msgspec.json.encode(command.prompt))
    count = within(usage.get("prompt_tokens"), 0, characters + TEMPLATE_TOKENS)
    return [
        Evaluated(request, count, count, 0),
        Embedded(request, tuple(numbers)),
        Counted(request, count, 0, 0),
        Finished(request, "stop", ""),
    ]


def _decode(body: bytes, kind: type[T]) -> T:
    """Return what an answer contains.

    Raises:
        BrokenError: It is something else.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BrokenError(f"an invalid answer: {error}") from error
