"""Converts Anthropic's messages to a chat in OpenAI's form."""

import json
from collections.abc import Iterator
from typing import Any, Final, Literal

from node.api.anthropic.schema import (
    CountTokensRequest,
    InputMessage,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    ToolParameter,
    ToolResultBlock,
    ToolUseBlock,
    joined,
)
from node.api.chat_schema import ChatRequest, Message
from node.api.tools import ChosenFunction, Function, FunctionCall, Tool, ToolCall, ToolChoice

_CHOICES: Final[dict[str, Literal["none", "auto", "required"]]] = {
    "auto": "auto",
    "any": "required",
    "none": "none",
}


def chat_of(asked: CountTokensRequest) -> ChatRequest:
    """Return the chat that a request means.

    Raises:
        InvalidRequestError: The fields contradict each other.
    """
    chat = ChatRequest(model=asked.model, **_prompt(asked), **_answer(asked))
    chat.check()
    return chat


def _prompt(asked: CountTokensRequest) -> dict[str, Any]:
    choice = asked.tool_choice
    thinking = asked.thinking
    messages = [Message("system", joined(asked.system))] if asked.system else []
    for message in asked.messages:
        messages += _messages(message)
    return {
        "messages": messages,
        "tools": [Tool("function", _function(tool)) for tool in asked.tools or ()],
        "tool_choice": choice
        and _CHOICES.get(choice.type, ToolChoice("function", ChosenFunction(choice.name or ""))),
        "parallel_tool_calls": not (choice and choice.disable_parallel_tool_use),
        "chat_template_kwargs": thinking and {"enable_thinking": thinking.type != "disabled"},
    }


def _function(tool: ToolParameter) -> Function:
    return Function(tool.name, tool.description, tool.input_schema, tool.strict)


def _answer(asked: CountTokensRequest) -> dict[str, Any]:
    if not isinstance(asked, MessagesRequest):
        return {}
    return {
        "max_tokens": asked.max_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
        "stop": asked.stop_sequences,
        "stream": asked.stream,
    }


def _messages(message: InputMessage) -> Iterator[Message]:
    """Yield one message, or several: OpenAI's results of calls are messages of their own."""
    if isinstance(message.content, str):
        yield Message(message.role, message.content)
        return
    texts = [block.text for block in message.content if isinstance(block, TextBlock)]
    calls = [_call(block) for block in message.content if isinstance(block, ToolUseBlock)]
    thoughts = [block.thinking for block in message.content if isinstance(block, ThinkingBlock)]
    results = [block for block in message.content if isinstance(block, ToolResultBlock)]
    for result in results:
        yield Message("tool", result.text, tool_call_id=result.tool_use_id)
    if texts or calls or not results:
        yield Message(
            message.role,
            "\n".join(texts) if texts or not calls else None,
            tool_calls=calls or None,
            reasoning_content="\n".join(thoughts) or None,
        )


def _call(block: ToolUseBlock) -> ToolCall:
    arguments = json.dumps(block.input, ensure_ascii=False)
    return ToolCall(id=block.id, function=FunctionCall(block.name, arguments))
