"""The requests to an engine elsewhere, in the fields of OpenAI's API; no I/O."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from node.engine.protocol import Generate
from node.engine.turns import with_json_arguments
from node.requests.parts import Words
from node.requests.request import Chat, Token, Turn

_TOOL_FIELDS: Final = ("tool_choice", "parallel_tool_calls")
_FORMS: Final = ("response_format", *_TOOL_FIELDS)
"""What an answer cannot be continued with: the server would begin its form again."""


class CannotContinueError(Exception):
    """The server cannot continue an answer; the text says why."""


def tokens_left(command: Generate) -> int | None:
    """Return how many tokens the answer may still have; None if the server decides."""
    return command.max_tokens - len(command.said) if command.max_tokens else None


def chat_body(command: Generate, chat: Chat, model: str, *, chooses_by_name: bool = True) -> bytes:
    """Return the body of `/chat/completions`, which continues what was said so far.

    Args:
        command: The request.
        chat: Its prompt.
        model: The server's name for the model.
        chooses_by_name: Whether the server knows a `tool_choice` that names a function;
            llama-server ignores it.

    Raises:
        CannotContinueError: More was said than words.
    """
    turns = [with_json_arguments(turn) for turn in chat.turns]
    if command.said:
        turns = _continued(turns, _words_so_far(command, chat))
    body: dict[str, Any] = {"messages": turns, **command.sampling.asked}
    if turns and turns[-1]["role"] == "assistant":
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if chat.tools:
        body["tools"] = [_tool(tool, command.strict) for tool in chat.tools]
        if not chooses_by_name and isinstance(choice := body.get("tool_choice"), dict):
            body |= {"tools": [_chosen(chat, choice)], "tool_choice": "required"}
    else:
        body = {name: value for name, value in body.items() if name not in _TOOL_FIELDS}
    if chat.options:
        body["chat_template_kwargs"] = chat.options
    return _streamed(command, body, model)


def completion_body(command: Generate, prompt: str | tuple[int, ...], model: str) -> bytes:
    """Return the body of `/completions`, which continues what was written so far.

    Raises:
        CannotContinueError: The prompt is tokens, which have no common form with the text.
    """
    written = b"".join(token.octets for token in command.said).decode(errors="replace")
    if written and not isinstance(prompt, str):
        raise CannotContinueError("its prompt was sent as token ids")
    whole = prompt + written if isinstance(prompt, str) else prompt
    return _streamed(command, {"prompt": whole, **command.sampling.asked}, model)


def _streamed(command: Generate, body: Mapping[str, Any], model: str) -> bytes:
    fields = dict(body)
    if (left := tokens_left(command)) is not None:
        fields["max_tokens"] = left
    if "min_tokens" in fields:
        fields["min_tokens"] = max(0, fields["min_tokens"] - len(command.said))
    fields |= {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    return msgspec.json.encode(fields)


def _words_so_far(command: Generate, chat: Chat) -> str:
    """Return what was said of a chat's answer.

    Raises:
        CannotContinueError: More than words was said, or may come.
    """
    if chat.tools or any(name in command.sampling.asked for name in _FORMS):
        raise CannotContinueError("it may call tools, or must match a format")
    return "".join(map(_word, command.said))


def _tool(tool: dict[str, Any], strict: Sequence[str]) -> dict[str, Any]:
    """Return a tool as its caller sent it."""
    function = tool["function"]
    is_strict = function["name"] in strict
    return tool | {"function": function | {"strict": True}} if is_strict else tool


def _chosen(chat: Chat, choice: dict[str, Any]) -> dict[str, Any]:
    """Return the tool that must be called."""
    name = choice["function"]["name"]
    return next(tool for tool in chat.tools if tool["function"]["name"] == name)


def _word(token: Token) -> str:
    if not isinstance(token.part, Words):
        raise CannotContinueError("it contains more than words")
    return token.part.text


def _continued(turns: list[Turn], words: str) -> list[Turn]:
    """Return the turns with these words at the end of the assistant's last one."""
    if turns[-1]["role"] != "assistant":
        return [*turns, {"role": "assistant", "content": words}]
    before = turns[-1].get("content") or ""
    return [*turns[:-1], turns[-1] | {"content": before + words}]
