"""Writes answers as messages of `distributed_llm.v1`."""

from collections.abc import Sequence
from typing import Any, Final, Literal

from protobuf import Oneof

from node.api.answers import Whole
from node.api.grpc.generated.distributed_llm.v1 import inference_pb as pb
from node.api.parts.listening import Read
from node.api.parts.part import (
    CallArguments,
    CallBegun,
    Part,
    PartReader,
    Thought,
    Words,
    finish_reason,
)
from node.requests.answer import Answer, Delta, Ending

_FINISH_REASONS: Final = {
    "stop": pb.FinishReason.STOP,
    "length": pb.FinishReason.LENGTH,
    "tool_calls": pb.FinishReason.TOOL_CALLS,
}

_Ended = Oneof[Literal["ending"], pb.Ending]


def whole(wholes: Sequence[Whole]) -> pb.GenerateResponse:
    """Return the response of one or more complete answers."""
    first, *others = map(_answer, wholes)
    first.others = others
    return first


class StreamWriter:
    """Writes the messages of one stream.

    Args:
        read: Returns what reads the parts of an answer.
        running: Whether each message has its answer's usage so far.
    """

    def __init__(self, read: Read, *, running: bool) -> None:
        self._read = read
        self._readers: dict[int, PartReader] = {}
        self._calling: set[int] = set()
        """The answers with calls."""
        self._running = running

    def pieces(
        self, number: int, answer: Answer, deltas: Sequence[Delta]
    ) -> list[pb.GenerateStreamResponse]:
        """Return a message for each part of an answer's next pieces."""
        text = "".join(delta.text for delta in deltas)
        return self._parts(number, answer, self._reader(number, answer).feed(text))

    def ending(
        self, number: int, answer: Answer, ending: Ending
    ) -> list[pb.GenerateStreamResponse]:
        """Return the messages of an answer's end."""
        rest = self._parts(number, answer, self._reader(number, answer).finish())
        ended = _ending(answer, ending, calls=number in self._calling)
        return [*rest, pb.GenerateStreamResponse(part=_Ended("ending", ended), index=number)]

    def _reader(self, number: int, answer: Answer) -> PartReader:
        if number not in self._readers:
            self._readers[number] = self._read(answer)
        return self._readers[number]

    def _parts(
        self, number: int, answer: Answer, parts: Sequence[Part]
    ) -> list[pb.GenerateStreamResponse]:
        if any(isinstance(part, CallBegun) for part in parts):
            self._calling.add(number)
        used = usage(answer.prompt_tokens, answer.cached_tokens, answer.read_tokens)
        return [
            pb.GenerateStreamResponse(
                part=_part(part), index=number, usage=used if self._running else None
            )
            for part in parts
        ]


def usage(prompt_tokens: int, cached_tokens: int = 0, generated_tokens: int = 0) -> pb.Usage:
    """Return the message of token counts."""
    return pb.Usage(
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        generated_tokens=generated_tokens,
    )


def _answer(one: Whole) -> pb.GenerateResponse:
    said, answer, ending = one
    return pb.GenerateResponse(
        text=said.words,
        reasoning_content=said.thoughts,
        tool_calls=[
            pb.ToolCall(
                id=call.identity,
                function=pb.FunctionCall(name=call.name, arguments=call.arguments),
            )
            for call in said.calls
        ],
        ending=_ending(answer, ending, calls=bool(said.calls)),
    )


def _part(part: Part) -> Any:
    match part:
        case Words(text):
            return Oneof("text", text)
        case Thought(text):
            return Oneof("reasoning_content", text)
        case CallBegun(number, name, identity):
            return Oneof("tool_call", pb.ToolCallDelta(index=number, id=identity, name=name))
        case CallArguments(number, text):
            return Oneof("tool_call", pb.ToolCallDelta(index=number, arguments=text))


def _ending(answer: Answer, ending: Ending, *, calls: bool) -> pb.Ending:
    return pb.Ending(
        model=answer.request.model_id,
        finish_reason=_FINISH_REASONS[finish_reason(ending.finish_reason, calls=calls)],
        usage=usage(ending.prompt_tokens, ending.cached_tokens, ending.generated_tokens),
    )
