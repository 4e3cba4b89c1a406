"""Calls in the formats of the model families, each read from a whole block of them.

Sources: the chat templates in the models' files (Qwen, Hermes, Mistral, Llama 3, DeepSeek). Reading
takes time in proportion to the length of the block, whatever a model writes.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

Call = tuple[str, str]
"""A function's name and its arguments as JSON text."""

_MISTRAL: Final = re.compile(r"\s*([\w.:-]+)(?:\[CALL_ID\][^\[]*)?\[ARGS\](.*)", re.DOTALL)
_DEEPSEEK_BEGIN: Final = "<｜tool▁call▁begin｜>"
_DEEPSEEK_END: Final = "<｜tool▁call▁end｜>"
_DEEPSEEK_SEPARATOR: Final = "<｜tool▁sep｜>"
_decoder = json.JSONDecoder()


def read_objects(body: str) -> list[Call] | None:
    """Read JSON objects with `name` and `arguments` (or `parameters`), alone or in a list.

    Hermes, Qwen, Llama 3 and Mistral write calls so. Return None if the body is anything else.
    """
    try:
        calls = [_call(one) for one in _values(body)]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return calls or None


def read_hermes(body: str) -> list[Call] | None:
    """Read the inside of `<tool_call>`: an object, or Qwen 3 Coder's functions like XML."""
    if not body.lstrip().startswith("<function="):
        return read_objects(body)
    return [_function(piece) for piece in body.split("<function=")[1:]]


def read_mistral(body: str) -> list[Call] | None:
    """Read what follows `[TOOL_CALLS]`: a list of objects, or a name with `[ARGS]`."""
    found = _MISTRAL.fullmatch(body)
    if found is None:
        return read_objects(body)
    return [(found[1], found[2].strip())] if _is_object(found[2]) else None


def read_deepseek(body: str) -> list[Call] | None:
    """Read the inside of DeepSeek's block of calls, in the forms of V3 and V3.1."""
    calls = [_deepseek_call(piece) for piece in body.split(_DEEPSEEK_BEGIN)[1:]]
    return calls if calls and all(_is_object(arguments) for _, arguments in calls) else None


def _values(body: str) -> Iterator[Any]:
    """Yield the JSON values of a text or of its lists; commas or semicolons may separate them."""
    rest = body.strip()
    while rest:
        value, end = _decoder.raw_decode(rest)
        yield from value if isinstance(value, list) else [value]
        rest = rest[end:].lstrip(",; \t\r\n")


def _call(value: dict[str, Any]) -> Call:
    function = value.get("function", value) if isinstance(value, dict) else {}
    arguments = function["arguments"] if "arguments" in function else function["parameters"]
    if not isinstance(function["name"], str) or not isinstance(arguments, str | dict):
        raise TypeError
    text = arguments if isinstance(arguments, str) else _json(arguments)
    return function["name"], text


def _function(piece: str) -> Call:
    name, _, inside = piece.partition("</function>")[0].partition(">")
    parameters = (one.partition("</parameter>")[0] for one in inside.split("<parameter=")[1:])
    named = (parameter.partition(">") for parameter in parameters)
    return name, _json({key: _value(text) for key, _, text in named})


def _value(text: str) -> Any:
    """Return a parameter's value: JSON if it is that, else the text."""
    text = text.removeprefix("\n").removesuffix("\n")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _deepseek_call(piece: str) -> Call:
    name, _, arguments = piece.partition(_DEEPSEEK_END)[0].partition(_DEEPSEEK_SEPARATOR)
    if name == "function":
        name, _, arguments = arguments.partition("\n```json\n")
        arguments = arguments.rstrip().removesuffix("```")
    return name.strip(), arguments.strip()


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
