"""Writes answers as messages of `distributed_llm.v1`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from protobuf import Oneof

from node.api.answers import Whole
from node.api.grpc.generated.distributed_llm.v1 import inference_pb as pb
from node.api.parts.listening import Heard, Listener, Read
from node.api.parts.part import finish_reason
from node.requests.answer import Answer, Delta, Ending
from node.requests.parts import CallArguments, CallBegun, Part, Thought, Words
from node.requests.request import Token

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


@dataclass
class _Told:
    """What was written of one answer."""

    listener: Listener
    is_calling: bool = False
    is_echo_due: bool = True


class StreamWriter:
    """Writes the messages of one stream.

    Args:
        read: Returns what reads the parts of an answer.
        running: Whether each message has its answer's usage so far.
    """

    def __init__(self, read: Read, *, running: bool) -> None:
        self._read = read
        self._running = running
        self._told: dict[int, _Told] = {}

    def pieces(
        self, number: int, answer: Answer, deltas: Sequence[Delta]
    ) -> list[pb.GenerateStreamResponse]:
        """Return a message for each part of an answer's next pieces."""
        told = self._of(number, answer)
        heard = [one for delta in deltas for one in told.listener.feed(delta)]
        return [*self._echo(number, answer), *self._parts(number, answer, heard)]

    def ending(
        self, number: int, answer: Answer, ending: Ending
    ) -> list[pb.GenerateStreamResponse]:
        """Return the messages of an answer's end."""
        told = self._of(number, answer)
        before = self._echo(number, answer)
        before += self._parts(number, answer, told.listener.finish())
        thoughts = told.listener.thought_tokens
        ended = _ending(answer, ending, calls=told.is_calling, thoughts=thoughts)
        rest = _logprobs(answer, told.listener.rest())
        last = pb.GenerateStreamResponse(part=_Ended("ending", ended), index=number, logprobs=rest)
        return [*before, last]

    def _of(self, number: int, answer: Answer) -> _Told:
        if number not in self._told:
            self._told[number] = _Told(Listener(self._read(answer)))
        return self._told[number]

    def _echo(self, number: int, answer: Answer) -> list[pb.GenerateStreamResponse]:
        """Return the message of the prompt that precedes an answer, once."""
        told = self._told[number]
        due, told.is_echo_due = told.is_echo_due, False
        if not due or answer.echoed is None:
            return []
        tokens, text = answer.echoed
        return [self._message(number, answer, Heard(Words(text), 0, tokens))]

    def _parts(
        self, number: int, answer: Answer, heard: Sequence[Heard]
    ) -> list[pb.GenerateStreamResponse]:
        self._told[number].is_calling |= any(isinstance(one.part, CallBegun) for one in heard)
        return [self._message(number, answer, one) for one in _joined(heard)]

    def _message(self, number: int, answer: Answer, heard: Heard) -> pb.GenerateStreamResponse:
        used = None
        if self._running:
            thoughts = self._told[number].listener.thought_tokens
            read = answer.read_tokens
            used = usage(answer.prompt_tokens, answer.cached_tokens, read, thoughts)
        log = _logprobs(answer, heard.tokens)
        return pb.GenerateStreamResponse(
            part=_part(heard.part), index=number, usage=used, logprobs=log
        )


def usage(
    prompt_tokens: int,
    cached_tokens: int = 0,
    generated_tokens: int = 0,
    reasoning_tokens: int = 0,
) -> pb.Usage:
    """Return the message of token counts."""
    return pb.Usage(
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        generated_tokens=generated_tokens,
        reasoning_tokens=reasoning_tokens,
    )


def _answer(one: Whole) -> pb.GenerateResponse:
    said, answer, ending = one
    tokens, text = answer.echoed or ((), "")
    thoughts = said.thought_tokens
    return pb.GenerateResponse(
        text=text + said.words,
        reasoning_content=said.thoughts,
        tool_calls=[
            pb.ToolCall(
                id=call.identity,
                function=pb.FunctionCall(name=call.name, arguments=call.arguments),
            )
            for call in said.calls
        ],
        logprobs=_logprobs(answer, (*tokens, *answer.tokens)),
        ending=_ending(answer, ending, calls=bool(said.calls), thoughts=thoughts),
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


def _joined(heard: Sequence[Heard]) -> list[Heard]:
    """Return the parts with neighbouring words, and neighbouring thoughts, as one."""
    joined: list[Heard] = []
    for one in heard:
        before = joined[-1] if joined else None
        if before is not None and (part := _sum(before.part, one.part)) is not None:
            joined[-1] = Heard(part, before.count + one.count, before.tokens + one.tokens)
        else:
            joined.append(one)
    return joined


def _sum(before: Part, part: Part) -> Part | None:
    """Return two parts as one; None if they are not of one kind."""
    match before, part:
        case Words(one), Words(other):
            return Words(one + other)
        case Thought(one), Thought(other):
            return Thought(one + other)
    return None


def _logprobs(answer: Answer, tokens: Iterable[Token]) -> list[pb.Logprob]:
    """Return the likelihoods of tokens, if the request asked for them."""
    top = answer.request.logprobs
    return [] if top is None else [_logprob(token, top) for token in tokens]


def _logprob(token: Token, top: int) -> pb.Logprob:
    likely = token.likelihood
    if likely is None:
        return pb.Logprob(token=_shown(token.piece), bytes=token.piece)
    return pb.Logprob(
        token=_shown(token.piece),
        bytes=token.piece,
        logprob=likely.logprob,
        top_logprobs=[
            pb.Logprob(token=_shown(one.piece), bytes=one.piece, logprob=one.logprob)
            for one in likely.top[:top]
        ],
    )


def _shown(piece: bytes) -> str:
    return piece.decode(errors="backslashreplace")


def _ending(answer: Answer, ending: Ending, *, calls: bool, thoughts: int) -> pb.Ending:
    return pb.Ending(
        model=answer.request.model_id,
        finish_reason=_FINISH_REASONS[finish_reason(ending.finish_reason, calls=calls)],
        usage=usage(ending.prompt_tokens, ending.cached_tokens, ending.generated_tokens, thoughts),
    )
