"""Converts a response's input to a chat in OpenAI's older form."""

from collections.abc import Iterator

from node.api.chat_schema import ChatRequest, Message
from node.api.responses.schema import ContentPart, FunctionChoice, InputItem, ResponsesRequest
from node.api.tools import (
    Choice,
    ChosenFunction,
    Function,
    FunctionCall,
    JsonSchema,
    ResponseFormat,
    Tool,
    ToolCall,
    ToolChoice,
)
from node.errors import InvalidRequestError


def chat_of(asked: ResponsesRequest) -> ChatRequest:
    """Return the chat that a request means.

    Raises:
        InvalidRequestError: The fields contradict each other.
    """
    messages = [] if asked.instructions is None else [Message("system", asked.instructions)]
    messages += _messages(asked.input)
    if not messages:
        raise InvalidRequestError("`input` has no message: send one", parameter="input")
    logprobs = "message.output_text.logprobs" in (asked.include or ())
    if asked.top_logprobs and not logprobs:
        message = "`top_logprobs` needs `include` with message.output_text.logprobs"
        raise InvalidRequestError(message, parameter="top_logprobs")
    chat = ChatRequest(
        model=asked.model,
        messages=messages,
        max_tokens=asked.max_output_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        tools=[
            Tool("function", Function(one.name, one.description, one.parameters, one.strict))
            for one in asked.tools or ()
        ],
        tool_choice=_choice(asked),
        parallel_tool_calls=asked.parallel_tool_calls,
        response_format=_format(asked),
        reasoning_effort=asked.reasoning.effort if asked.reasoning else None,
        logprobs=logprobs,
        top_logprobs=asked.top_logprobs,
        stream=asked.stream,
    )
    chat.check()
    return chat


def _choice(asked: ResponsesRequest) -> Choice:
    if isinstance(asked.tool_choice, FunctionChoice):
        return ToolChoice("function", ChosenFunction(asked.tool_choice.name))
    return asked.tool_choice


def _format(asked: ResponsesRequest) -> ResponseFormat | None:
    wanted = asked.text and asked.text.format
    if not wanted:
        return None
    if wanted.schema is None:
        return ResponseFormat(wanted.type)
    return ResponseFormat(wanted.type, JsonSchema(wanted.schema, wanted.name))


def _messages(given: str | list[InputItem]) -> Iterator[Message]:
    """Yield the messages; thoughts, words and calls in a row are one turn of the assistant."""
    if isinstance(given, str):
        yield Message("user", given)
        return
    turn = _Turn()
    for item in given:
        match item.type:
            case "reasoning":
                turn.thoughts.append(_text(item.content or item.summary))
                continue
            case "function_call":
                function = FunctionCall(item.name or "", item.arguments or "")
                turn.calls.append(ToolCall(id=item.call_id or "", function=function))
                continue
            case "message" if item.role == "assistant" and not turn.calls:
                turn.words.append(_text(item.content))
                continue
        yield from turn.end()
        if item.type == "function_call_output":
            yield Message("tool", _text(item.output), tool_call_id=item.call_id)
        else:
            yield Message(item.role or "user", _text(item.content))
    yield from turn.end()


class _Turn:
    """One turn of the assistant, which is several items."""

    def __init__(self) -> None:
        self.thoughts: list[str] = []
        self.words: list[str] = []
        self.calls: list[ToolCall] = []

    def end(self) -> Iterator[Message]:
        """Yield the turn as a message, if it has begun; then begin another one."""
        if self.words or self.calls:
            yield Message(
                "assistant",
                "\n".join(self.words) if self.words else None,
                tool_calls=self.calls or None,
                reasoning_content="\n".join(self.thoughts) or None,
            )
        self.thoughts, self.words, self.calls = [], [], []


def _text(content: str | list[ContentPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text for part in content)
