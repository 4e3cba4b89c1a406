"""The events of completions and chats in OpenAI's format."""

import pytest
from trio.testing import trio_test

from node.api.http.events import TextEvents, event
from node.api.http.writer import AnswerWriter
from node.api.parts.part import WordsReader
from node.requests.answer import Answer, Delta
from node.requests.parts import Words
from node.requests.request import InferenceRequest, Sampling

WORDS = ["a", ' "\\', "\n\0\x7f", "\u2028é🙂", "\0", ""]


@pytest.mark.parametrize("model", ["m", '"\\u0000"', "\0"])
@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("with_usage", [True, False])
@trio_test
async def test_any_words_are_written_like_a_whole_chunk(
    model: str, *, chat: bool, with_usage: bool
) -> None:
    """The event of a piece is its chunk's JSON, whatever the words and the model's name are."""
    writer = AnswerWriter(model, 7, chat=chat, with_usage=with_usage)
    events = TextEvents(writer, 1, lambda _: WordsReader())
    request = InferenceRequest(
        model_id=model, prompt="x", max_tokens=0, sampling=Sampling(0, 1, 1, 1, 1)
    )
    with Answer(request) as answer:
        events.opening(3, answer)
        for words in WORDS:
            chunk = event(writer.piece(Words(words), 3)) if words else b""
            assert events.pieces(3, answer, [Delta(words, 1)]) == chunk
