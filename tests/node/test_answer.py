"""The bodies that the API answers with: a stream has the same content as the whole answer."""

from collections.abc import Sequence

import msgspec
import pytest

from node.api.http.answer import ChatChunk, ChatCompletion, Completion, Form, TokenDetails, Usage


@pytest.mark.parametrize("with_usage", [True, False])
def test_stream_of_a_completion_tells_the_same_as_the_whole(*, with_usage: bool) -> None:
    """The pieces of a stream are of one answer, whose text is theirs together."""
    form = Form("m", 7, chat=False, with_usage=with_usage)
    whole = form.whole("ab", "stop", USAGE)
    assert form.first() is None
    chunks = [form.piece("a"), form.piece("b"), form.last("stop")]
    assert isinstance(whole, Completion)
    texts = [chunk.choices[0].text for chunk in chunks if isinstance(chunk, Completion)]
    assert "".join(texts) == whole.choices[0].text
    check_alike(whole, chunks, form)


@pytest.mark.parametrize("with_usage", [True, False])
def test_stream_of_a_chat_tells_the_same_as_the_whole(*, with_usage: bool) -> None:
    """As with a completion; the first chunk says whose turn it is."""
    form = Form("m", 7, chat=True, with_usage=with_usage)
    whole = form.whole("ab", "stop", USAGE)
    opening = form.first()
    assert opening is not None
    assert isinstance(whole, ChatCompletion)
    assert opening.choices[0].delta.role == whole.choices[0].message.role == "assistant"
    chunks = [opening, form.piece("a"), form.piece("b"), form.last("stop")]
    deltas = [chunk.choices[0].delta for chunk in chunks if isinstance(chunk, ChatChunk)]
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    check_alike(whole, chunks, form)


USAGE = Usage(1, 2, 3, TokenDetails(0))


def check_alike(
    whole: Completion | ChatCompletion, chunks: Sequence[Completion | ChatChunk], form: Form
) -> None:
    assert {chunk.id for chunk in chunks} == {whole.id}
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    for chunk in chunks:  # OpenAI's stream has the field, as null, where usage was asked for
        assert msgspec.to_builtins(chunk).get("usage", "-") == (None if form.with_usage else "-")
    account = form.usage(USAGE)
    assert account.choices == []
    assert account.usage == whole.usage
