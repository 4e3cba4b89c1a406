"""Response bodies: a stream has the same content as the whole answer."""

from collections.abc import Sequence

import msgspec
import pytest

from node.api.http.answer import (
    ChatChunk,
    ChatCompletion,
    Completion,
    TokenDetails,
    Usage,
)
from node.api.http.writer import AnswerWriter
from node.api.parts.part import Said
from node.requests.parts import Words


@pytest.mark.parametrize("with_usage", [True, False])
def test_stream_of_a_completion_tells_the_same_as_the_whole(*, with_usage: bool) -> None:
    """The chunks of a streamed completion have one id, and their texts add up to the whole."""
    writer = AnswerWriter("m", 7, chat=False, with_usage=with_usage)
    whole = writer.whole([(Said("ab"), "stop", None)], USAGE)
    assert writer.first() is None
    chunks = [writer.piece(Words("a")), writer.piece(Words("b")), writer.last("stop")]
    assert isinstance(whole, Completion)
    texts = [chunk.choices[0].text for chunk in chunks if isinstance(chunk, Completion)]
    assert "".join(texts) == whole.choices[0].text
    check_alike(whole, chunks, writer)


@pytest.mark.parametrize("with_usage", [True, False])
def test_stream_of_a_chat_tells_the_same_as_the_whole(*, with_usage: bool) -> None:
    """The chunks of a streamed chat add up to the whole, and the first one has the role."""
    writer = AnswerWriter("m", 7, chat=True, with_usage=with_usage)
    whole = writer.whole([(Said("ab"), "stop", None)], USAGE)
    opening = writer.first()
    assert opening is not None
    assert isinstance(whole, ChatCompletion)
    assert opening.choices[0].delta.role == whole.choices[0].message.role == "assistant"
    chunks = [opening, writer.piece(Words("a")), writer.piece(Words("b")), writer.last("stop")]
    deltas = [chunk.choices[0].delta for chunk in chunks if isinstance(chunk, ChatChunk)]
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    check_alike(whole, chunks, writer)


USAGE = Usage(1, 2, 3, TokenDetails(0))


def check_alike(
    whole: Completion | ChatCompletion,
    chunks: Sequence[Completion | ChatChunk],
    writer: AnswerWriter,
) -> None:
    assert {chunk.id for chunk in chunks} == {whole.id}
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    for chunk in chunks:  # OpenAI's stream has the field, as null, if usage was requested
        assert msgspec.to_builtins(chunk).get("usage", "-") == (None if writer.with_usage else "-")
    account = writer.usage(USAGE)
    assert account.choices == []
    assert account.usage == whole.usage
