"""Vectors of texts and scores of documents, by llama-server's embedding and reranking models."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from node.engine.llama_cpp.connection import call
from node.engine.llama_cpp.errors import EngineLostError
from node.engine.llama_cpp.replies import decode, read_failure, refused
from node.engine.protocol import Embedded, Evaluated, Finished, Generate, Result
from node.requests.request import Chat

Send = Callable[[list[Result]], Awaitable[None]]

RANKED_ROLES: Final = ("query", "document")
"""The roles of the two turns that a reranker compares."""


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int


class _Score(msgspec.Struct, frozen=True):
    relevance_score: float


class _Ranking(msgspec.Struct, frozen=True):
    results: list[_Score]
    usage: _Usage


async def embed(socket: str, command: Generate, tokens: list[int], send: Send) -> Finished:
    """Send the vector of a text and return how the request ended.

    Raises:
        EngineLostError: The server is gone or broken.
    """
    status, body = await call(socket, "/embedding", {"content": tokens})
    if status != 200:
        return refused(command.request, read_failure(body))
    return await _send_vector(command, len(tokens), read_vector(body), send)


async def rank(socket: str, command: Generate, send: Send) -> Finished:
    """Send the score of a document for a query, as a vector of one number.

    Raises:
        EngineLostError: The server is gone or broken.
    """
    turns = command.prompt.turns if isinstance(command.prompt, Chat) else ()
    if tuple(turn["role"] for turn in turns) != RANKED_ROLES:
        message = "this model compares documents with a query: request a rerank"
        return Finished(command.request, "refused", message)
    query, document = (turn["content"] for turn in turns)
    status, body = await call(socket, "/v1/rerank", {"query": query, "documents": [document]})
    if status != 200:
        return refused(command.request, read_failure(body))
    ranking = decode(body, _Ranking)
    if len(ranking.results) != 1:
        raise EngineLostError("no score for the document")
    score = ranking.results[0].relevance_score
    return await _send_vector(command, ranking.usage.prompt_tokens, (score,), send)


def read_vector(body: bytes) -> tuple[float, ...]:
    """Return the vector in an answer of `/embedding` for one text.

    Raises:
        EngineLostError: The answer contains no vector for the text as a whole.
    """
    answer = decode(body, list[dict[str, Any]])
    rows = answer[0].get("embedding", []) if answer else []
    if len(rows) != 1 or not isinstance(rows[0], list):
        raise EngineLostError("no vector for the whole text")
    return tuple(map(float, rows[0]))


async def _send_vector(
    command: Generate, tokens: int, vector: tuple[float, ...], send: Send
) -> Finished:
    request = command.request
    await send([Evaluated(request, tokens, tokens, 0), Embedded(request, vector)])
    return Finished(request, "stop", "")
