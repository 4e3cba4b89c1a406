"""What a chat's answer may be: words, calls of its tools, or something that a schema forces."""

from collections.abc import Iterator
from typing import Any

import msgspec

from node.api.chat_schema import ChatRequest
from node.api.parts.chat import ChatReader
from node.api.parts.forced import (
    CallListReader,
    NamedCallReader,
    arguments_schema,
    calls_schema,
)
from node.api.parts.listening import Read
from node.api.parts.part import PartReader, WordsReader
from node.api.schema import CompletionRequest
from node.api.tools import Schema, ToolChoice


def described_tools(asked: ChatRequest) -> tuple[dict[str, Any], ...]:
    """Return the tools as templates know them; none if the answer must not call any."""
    if asked.tool_choice == "none":
        return ()
    return tuple(
        {"type": "function", "function": _given(tool.function)} for tool in asked.tools or ()
    )


def answer_schema(asked: ChatRequest) -> Schema | None:
    """Return the schema that the answer must match; None if it is free."""
    functions = {tool.function.name: tool.function.parameters for tool in asked.tools or ()}
    if isinstance(asked.tool_choice, ToolChoice):
        return arguments_schema(functions[asked.tool_choice.function.name])
    if asked.tool_choice == "required":
        return calls_schema(functions, parallel=asked.parallel_tool_calls is not False)
    return asked.response_format.answer_schema() if asked.response_format else None


def strict_tools(asked: ChatRequest) -> tuple[str, ...]:
    """Return the functions that the model may call only with arguments of their schemas."""
    if asked.tool_choice == "none":
        return ()
    return tuple(tool.function.name for tool in asked.tools or () if tool.function.strict)


def reading(asked: ChatRequest | CompletionRequest) -> Read:
    """Return what reads the parts of each answer."""
    if isinstance(asked, CompletionRequest):
        return lambda _: WordsReader()
    return lambda answer: part_reader(asked, thinks=answer.thinks)


def part_reader(asked: ChatRequest, *, thinks: bool = False) -> PartReader:
    """Return what reads one answer's parts.

    Args:
        asked: The request.
        thinks: Whether the prompt has already opened the model's thoughts.
    """
    if isinstance(asked.tool_choice, ToolChoice):
        return NamedCallReader(asked.tool_choice.function.name)
    if asked.tool_choice == "required":
        return CallListReader()
    parallel = asked.parallel_tool_calls is not False
    texts = frozenset(_texts(asked))
    calls = bool(described_tools(asked))
    return ChatReader(calls=calls, parallel=parallel, thinks=thinks, texts=texts)


def _texts(asked: ChatRequest) -> Iterator[tuple[str, str]]:
    """Yield each function with its parameters that are texts by their schema."""
    for function in (tool.function for tool in asked.tools or ()):
        properties = (function.parameters or {}).get("properties")
        for name, schema in properties.items() if isinstance(properties, dict) else ():
            if isinstance(schema, dict) and schema.get("type") == "string":
                yield function.name, name


def _given(function: msgspec.Struct) -> dict[str, Any]:
    """Return the given fields of a function, except `strict`, which is not for the model."""
    fields = msgspec.structs.asdict(function)
    return {name: value for name, value in fields.items() if name != "strict" and value is not None}
