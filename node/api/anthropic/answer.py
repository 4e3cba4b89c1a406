"""The response of `/v1/messages`: one object, or the events of a stream."""

import secrets
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from node.api.parts.listening import Read
from node.api.parts.part import DeltaReader, Said
from node.errors import RequestError
from node.requests.answer import Answer, Delta, Ending
from node.requests.parts import CallArguments, CallBegun, Part, Thought, Words

_ERRORS: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_encoder = msgspec.json.Encoder()
Object = dict[str, Any]


class TokenCount(msgspec.Struct, frozen=True):
    """The tokens of a prompt."""

    input_tokens: int


class MessageUsage(msgspec.Struct, frozen=True):
    """Tokens of a request and its answer."""

    input_tokens: int
    """Without those that were still in memory from an earlier request."""
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int = 0


class MessageAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The assistant's message."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[dict[str, Any]]
    """Blocks of the types thinking, text and tool_use."""
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessageUsage


class MessageFault(msgspec.Struct, frozen=True):
    """The error, in Anthropic's terms."""

    type: str
    message: str


class MessageError(msgspec.Struct, frozen=True):
    """The body of a refusal."""

    error: MessageFault
    type: Literal["error"] = "error"


def error_body(error: RequestError) -> MessageError:
    """Return Anthropic's error object."""
    default = "invalid_request_error" if error.status < 500 else "api_error"
    return MessageError(MessageFault(_ERRORS.get(error.status, default), str(error)))


def whole(model: str, said: Said, answer: Answer, ending: Ending) -> MessageAnswer:
    """Return the message of a complete answer."""
    blocks: list[Object] = []
    if said.thoughts:
        blocks.append({"type": "thinking", "thinking": said.thoughts, "signature": ""})
    if said.words or not said.calls:
        blocks.append({"type": "text", "text": said.words})
    blocks += [
        {
            "type": "tool_use",
            "id": call.identity,
            "name": call.name,
            "input": _input(call.arguments),
        }
        for call in said.calls
    ]
    return MessageAnswer(
        id=new_id(),
        model=model,
        content=blocks,
        stop_reason=_stop_reason(answer, ending, calls=bool(said.calls)),
        stop_sequence=answer.stop_sequence,
        usage=_usage(ending.prompt_tokens, ending.cached_tokens, ending.generated_tokens),
    )


class MessageEvents:
    """Writes the events of a streamed message.

    Args:
        model: The model's id.
        read: Returns what reads the answer's parts.
    """

    def __init__(self, model: str, read: Read) -> None:
        self._model = model
        self._read = read
        self._reader: DeltaReader
        """Set by `opening`."""
        self._index = -1
        """The current block's."""
        self._kind: object = None
        """The current block's kind of part; None if there is none."""
        self._is_calling = False

    def opening(self, number: int, answer: Answer) -> bytes:
        """Return the beginning of the message."""
        del number
        self._reader = DeltaReader(self._read(answer))
        message = MessageAnswer(
            id=new_id(),
            model=self._model,
            content=[],
            stop_reason=None,
            stop_sequence=None,
            usage=_usage(answer.prompt_tokens, answer.cached_tokens, 0),
        )
        return _event("message_start", message=message)

    def pieces(self, number: int, answer: Answer, deltas: Sequence[Delta]) -> bytes:
        """Return the events of the next parts."""
        del number, answer
        parts = [part for delta in deltas for part in self._reader.feed(delta)]
        return b"".join(map(self._part, parts))

    def ending(self, number: int, answer: Answer, ending: Ending) -> bytes:
        """Return the end of the message."""
        del number
        written = b"".join(map(self._part, self._reader.finish())) + self._close()
        stop = {
            "stop_reason": _stop_reason(answer, ending, calls=self._is_calling),
            "stop_sequence": answer.stop_sequence,
        }
        usage = _usage(ending.prompt_tokens, ending.cached_tokens, ending.generated_tokens)
        return written + _event("message_delta", delta=stop, usage=usage)

    def closing(self) -> bytes:
        """Return the end of the stream."""
        return _event("message_stop")

    def failure(self, error: RequestError) -> bytes:
        """Return the event that ends a stream that failed."""
        return _event("error", error=error_body(error).error)

    def _part(self, part: Part) -> bytes:
        match part:
            case Words(text):
                opened = self._open(Words, {"type": "text", "text": ""})
                return opened + self._delta(type="text_delta", text=text)
            case Thought(text):
                opened = self._open(Thought, {"type": "thinking", "thinking": "", "signature": ""})
                return opened + self._delta(type="thinking_delta", thinking=text)
            case CallBegun(_, name, identity):
                self._is_calling = True
                block = {"type": "tool_use", "id": identity, "name": name, "input": {}}
                return self._close() + self._open(CallBegun, block)
            case CallArguments(_, text):
                return self._delta(type="input_json_delta", partial_json=text)

    def _open(self, kind: object, block: Object) -> bytes:
        """Begin a block, unless the current one is of this kind."""
        if self._kind is kind:
            return b""
        written = self._close()
        self._kind = kind
        self._index += 1
        return written + _event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> bytes:
        if self._kind is None:
            return b""
        self._kind = None
        return _event("content_block_stop", index=self._index)

    def _delta(self, **delta: str) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)


def new_id() -> str:
    """Return the id of a new message."""
    return "msg_" + secrets.token_hex(12)


def _stop_reason(answer: Answer, ending: Ending, *, calls: bool) -> str:
    if ending.finish_reason == "length":
        return "max_tokens"
    if answer.stop_sequence is not None:
        return "stop_sequence"
    return "tool_use" if calls else "end_turn"


def _usage(prompt_tokens: int, cached_tokens: int, generated_tokens: int) -> MessageUsage:
    return MessageUsage(prompt_tokens - cached_tokens, generated_tokens, cached_tokens)


def _input(arguments: str) -> Any:
    """Return the arguments as an object; an answer that was cut off has none."""
    try:
        return msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        return {}


def _event(kind: str, **fields: Any) -> bytes:
    data = _encoder.encode({"type": kind, **fields})
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"
