"""The response of `/v1/responses`: one object, or the events of a stream."""

import secrets
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from node.api.logprobs import TokenLogprob, token_logprobs
from node.api.parts.listening import Heard, Listener, Read
from node.api.parts.part import Said
from node.api.responses.schema import ResponsesRequest
from node.errors import RequestError
from node.requests.answer import Answer, Delta, Ending
from node.requests.parts import CallArguments, CallBegun, Thought, Words
from node.requests.request import Token

_encoder = msgspec.json.Encoder()
Object = dict[str, Any]


class ResponseUsage(msgspec.Struct, frozen=True):
    """Tokens of a request and its answer."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class ResponseObject(msgspec.Struct, frozen=True, kw_only=True):
    """A response, in progress or complete."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    """Unix time in whole seconds."""
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    model: str
    output: list[dict[str, Any]]
    """Items of the types reasoning, message and function_call."""
    error: dict[str, Any] | None = None
    incomplete_details: dict[str, Any] | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None = None
    temperature: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_p: float | None
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None


class ResponseWriter:
    """Writes one response, as an object or as the events of a stream.

    Args:
        asked: The request, whose fields the response repeats.
        model: The model's id.
        created: Unix time of the response, in whole seconds.
        read: Returns what reads the answer's parts.
    """

    def __init__(self, asked: ResponsesRequest, model: str, created: int, read: Read) -> None:
        self._response = _begun(asked, model, created)
        self._likeliest = asked.top_logprobs or 0
        self._read = read
        self._listener: Listener
        """Set by `opening`."""
        self._output: list[Object] = []
        """The items so far; the last one may be open."""
        self._kind: object = None
        """The open item's kind of part; None if there is none."""
        self._number = -1

    def whole(self, said: Said, ending: Ending) -> ResponseObject:
        """Return the complete response."""
        output = []
        if said.thoughts:
            output.append(_reasoning(said.thoughts))
        if said.words or not said.calls:
            output.append(_message(said.words, self._logprobs(said.word_tokens)))
        output += [_call(one.identity, one.name, one.arguments) for one in said.calls]
        return self._ended(output, ending, said.thought_tokens)

    def opening(self, number: int, answer: Answer) -> bytes:
        """Return the beginning of the response."""
        del number
        self._listener = Listener(self._read(answer))
        begun = self._event("response.created", response=self._response)
        return begun + self._event("response.in_progress", response=self._response)

    def pieces(self, number: int, answer: Answer, deltas: Sequence[Delta]) -> bytes:
        """Return the events of the next parts."""
        del number, answer
        heard = [one for delta in deltas for one in self._listener.feed(delta)]
        return b"".join(map(self._part, heard))

    def ending(self, number: int, answer: Answer, ending: Ending) -> bytes:
        """Return the events of the last item's and the response's end."""
        del number, answer
        written = b"".join(map(self._part, self._listener.finish()))
        if not self._output:
            written += self._open(Words, _message(""))
        written += self._close()
        response = self._ended(self._output, ending, self._listener.thought_tokens)
        return written + self._event(f"response.{response.status}", response=response)

    def closing(self) -> bytes:
        """Return nothing: the response's end is the stream's."""
        return b""

    def failure(self, error: RequestError) -> bytes:
        """Return the events that end a response that failed."""
        fault = {"code": error.code or error.kind, "message": str(error)}
        failed = msgspec.structs.replace(
            self._response, status="failed", error=fault, output=self._output
        )
        told = self._event("error", **fault, param=error.parameter)
        return told + self._event("response.failed", response=failed)

    def _part(self, heard: Heard) -> bytes:
        match heard.part:
            case Words(text):
                opened = self._open(Words, _message(""))
                logprobs = self._logprobs(heard.tokens)
                part = self._item["content"][0]
                part["text"] += text
                part["logprobs"] += logprobs
                return opened + self._at(
                    "output_text.delta", content_index=0, delta=text, logprobs=logprobs
                )
            case Thought(text):
                opened = self._open(Thought, _reasoning(""))
                self._item["content"][0]["text"] += text
                return opened + self._at("reasoning_text.delta", content_index=0, delta=text)
            case CallBegun(_, name, identity):
                return self._close() + self._open(CallBegun, _call(identity, name, ""))
            case CallArguments(_, text):
                self._item["arguments"] += text
                return self._at("function_call_arguments.delta", delta=text)

    def _logprobs(self, tokens: Sequence[Token]) -> list[TokenLogprob]:
        return token_logprobs(tokens, self._likeliest)

    @property
    def _item(self) -> Object:
        return self._output[-1]

    def _open(self, kind: object, item: Object) -> bytes:
        """Begin an item, unless the current one is of this kind."""
        if self._kind is kind:
            return b""
        written = self._close()
        self._kind = kind
        self._output.append(item)
        begun = item | {"status": "in_progress"} | ({} if kind is CallBegun else {"content": []})
        written += self._event(
            "response.output_item.added", output_index=len(self._output) - 1, item=begun
        )
        if kind is Words:
            part = item["content"][0] | {"text": "", "logprobs": []}
            written += self._at("content_part.added", content_index=0, part=part)
        return written

    def _close(self) -> bytes:
        """End the current item, if there is one."""
        kind, self._kind = self._kind, None
        if kind is None:
            return b""
        item = self._item
        if kind is CallBegun:
            fields = {"arguments": item["arguments"], "name": item["name"]}
            written = self._at("function_call_arguments.done", **fields)
        else:
            part = item["content"][0]
            name = "output_text" if kind is Words else "reasoning_text"
            more: Object = {"logprobs": part["logprobs"]} if kind is Words else {}
            written = self._at(f"{name}.done", content_index=0, text=part["text"], **more)
            if kind is Words:
                written += self._at("content_part.done", content_index=0, part=part)
        index = len(self._output) - 1
        return written + self._event("response.output_item.done", output_index=index, item=item)

    def _ended(self, output: list[Object], ending: Ending, thought_tokens: int) -> ResponseObject:
        is_cut = ending.finish_reason == "length"
        if is_cut and output:
            output[-1]["status"] = "incomplete"
        return msgspec.structs.replace(
            self._response,
            status="incomplete" if is_cut else "completed",
            incomplete_details={"reason": "max_output_tokens"} if is_cut else None,
            output=output,
            usage=_usage(ending, thought_tokens),
        )

    def _at(self, kind: str, **fields: Any) -> bytes:
        """Return an event of the current item."""
        index = len(self._output) - 1
        return self._event(
            f"response.{kind}", item_id=self._item["id"], output_index=index, **fields
        )

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        data = _encoder.encode({"type": kind, "sequence_number": self._number, **fields})
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def _begun(asked: ResponsesRequest, model: str, created: int) -> ResponseObject:
    wanted = asked.text and asked.text.format
    shape = _given(wanted) if wanted else {"type": "text"}
    choice = asked.tool_choice
    return ResponseObject(
        id="resp_" + secrets.token_hex(12),
        created_at=created,
        status="in_progress",
        model=model,
        output=[],
        instructions=asked.instructions,
        max_output_tokens=asked.max_output_tokens,
        metadata=asked.metadata or {},
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        temperature=asked.temperature,
        text={"format": shape},
        tool_choice=_given(choice) if isinstance(choice, msgspec.Struct) else choice or "auto",
        tools=[msgspec.structs.asdict(tool) for tool in asked.tools or ()],
        top_p=asked.top_p,
    )


def _given(value: msgspec.Struct) -> Object:
    fields = msgspec.structs.asdict(value)
    return {name: field for name, field in fields.items() if field is not None}


def _message(text: str, logprobs: Sequence[TokenLogprob] = ()) -> Object:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}
    return {
        "id": "msg_" + secrets.token_hex(12),
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }


def _reasoning(text: str) -> Object:
    return {
        "id": "rs_" + secrets.token_hex(12),
        "type": "reasoning",
        "status": "completed",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": text}],
    }


def _call(identity: str, name: str, arguments: str) -> Object:
    return {
        "id": "fc_" + secrets.token_hex(12),
        "type": "function_call",
        "status": "completed",
        "call_id": identity,
        "name": name,
        "arguments": arguments,
    }


def _usage(ending: Ending, thought_tokens: int) -> ResponseUsage:
    return ResponseUsage(
        ending.prompt_tokens,
        {"cached_tokens": ending.cached_tokens},
        ending.generated_tokens,
        {"reasoning_tokens": thought_tokens},
        ending.prompt_tokens + ending.generated_tokens,
    )
