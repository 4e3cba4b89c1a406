"""Answers are written as messages: thoughts apart from words, calls, and each answer's number."""

from typing import Any

from trio.testing import trio_test

from node.api.answers import Whole
from node.api.grpc.generated.distributed_llm.v1 import inference_pb as pb
from node.api.grpc.messages import StreamWriter, whole
from node.api.parts.chat import ChatReader
from node.api.parts.part import collect
from node.requests.answer import Answer, Delta, Ending
from tests.node.test_forward import request

TEXT = '<think>Hm, well.</think>Yes.<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
ENDED = Ending("stop", 3, 1, 9)


def reader(_: Answer) -> ChatReader:
    return ChatReader(calls=True)


def streamed(number: int, pieces: list[str]) -> list[pb.GenerateStreamResponse]:
    """Return the messages of an answer that comes in these pieces."""
    writer, answer = StreamWriter(reader, running=False), Answer(request(prior=(), stops=()))
    messages = []
    for piece in pieces:
        messages += writer.pieces(number, answer, [Delta(piece, 1)])
    return messages + writer.ending(number, answer, ENDED)


def parts(messages: list[pb.GenerateStreamResponse], name: str) -> list[Any]:
    """Return the values of one kind of part."""
    return [m.part.value for m in messages if m.part is not None and m.part.field == name]


@trio_test
async def test_thoughts_words_and_calls_are_parts_of_their_own() -> None:
    """A stream tells thoughts, words and calls apart, however it is cut."""
    for pieces in ([TEXT], list(TEXT), [TEXT[:20], TEXT[20:50], TEXT[50:]]):
        messages = streamed(2, pieces)
        assert {message.index for message in messages} == {2}
        assert "".join(parts(messages, "reasoning_content")) == "Hm, well."
        assert "".join(parts(messages, "text")) == "Yes."
        begun, arguments = parts(messages, "tool_call")
        assert (begun.index, begun.name, arguments.arguments) == (0, "f", '{"a": 1}')
        assert begun.id
        (ending,) = parts(messages[-1:], "ending")
        assert ending.finish_reason == pb.FinishReason.TOOL_CALLS
        assert (ending.usage.prompt_tokens, ending.usage.cached_tokens) == (3, 1)
        assert ending.usage.generated_tokens == 9
        assert 0 < ending.usage.reasoning_tokens <= len(pieces)


@trio_test
async def test_whole_answers_have_the_same_parts() -> None:
    """The first answer is the response itself, and the others follow it in order."""
    wholes: list[Whole] = []
    for text in (TEXT, "No.", "Perhaps."):
        read = ChatReader(calls=True)
        said = collect([*read.feed(text), *read.finish()])
        wholes.append((said, Answer(request(prior=(), stops=())), ENDED))
    response = whole(wholes)
    assert (response.text, response.reasoning_content) == ("Yes.", "Hm, well.")
    (call,) = response.tool_calls
    assert call.function == pb.FunctionCall(name="f", arguments='{"a": 1}')
    assert response.ending is not None
    assert response.ending.finish_reason == pb.FinishReason.TOOL_CALLS
    assert [other.text for other in response.others] == ["No.", "Perhaps."]
    assert [other.ending and other.ending.finish_reason for other in response.others] == [
        pb.FinishReason.STOP,
        pb.FinishReason.STOP,
    ]
