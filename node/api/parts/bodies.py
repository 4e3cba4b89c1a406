"""Calls in the formats of the model families, each read from a whole block of them.

Sources: the chat templates in the models' files (Qwen, Hermes, Mistral, Llama 3, DeepSeek). Reading
takes time in proportion to the length of the block, whatever a model writes.
"""

import json
import re
from collections.abc import Set as AbstractSet
from typing import Any, Final

Call = tuple[str, str]
"""A function's name and its arguments as JSON text."""
Body = tuple[list[Call], str]
"""The calls in a block, and the words after them."""
Texts = AbstractSet[tuple[str, str]]
"""Functions with their parameters that are texts, whatever they look like."""

_NAME: Final = re.compile(r"[\w.:-]+")
_MISTRAL: Final = re.compile(r"\s*([\w.:-]+)(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?\s*(\{.*)", re.DOTALL)
_DEEPSEEK_BEGIN: Final = "<｜tool▁call▁begin｜>"
_DEEPSEEK_END: Final = "<｜tool▁call▁end｜>"
_DEEPSEEK_SEPARATOR: Final = "<｜tool▁sep｜>"
_SEPARATORS: Final = ",; \t\r\n"
_UNREADABLE: Final = (ValueError, LookupError, TypeError, RecursionError)
_decoder = json.JSONDecoder(strict=False)  # models break lines inside of texts


def read_objects(body: str) -> Body | None:
    """Read JSON objects with `name` and `arguments` (or `parameters`), alone or in a list.

    Hermes, Qwen, Llama 3 and Mistral write calls so. Return None if the body does not begin with
    such an object.
    """
    calls: list[Call] = []
    rest = body.strip()
    try:
        while rest:
            value, end = _decoder.raw_decode(rest)
            calls += [_call(one) for one in (value if isinstance(value, list) else [value])]
            rest = rest[end:].lstrip(_SEPARATORS)
    except _UNREADABLE:
        pass
    return (calls, rest) if calls else None


def read_hermes(body: str, texts: Texts = frozenset()) -> Body | None:
    """Read the inside of `<tool_call>`: an object, or Qwen 3 Coder's functions like XML."""
    if not body.lstrip().startswith("<function="):
        return read_objects(body)
    try:
        return [_function(piece, texts) for piece in body.split("<function=")[1:]], ""
    except _UNREADABLE:
        return None


def read_mistral(body: str) -> Body | None:
    """Read what follows `[TOOL_CALLS]`: a list of objects, or a name and its arguments."""
    found = _MISTRAL.fullmatch(body)
    if found is None:
        return read_objects(body)
    try:
        value, end = _decoder.raw_decode(found[2])
        return [(found[1], _arguments(value))], found[2][end:].strip()
    except _UNREADABLE:
        return None


def read_deepseek(body: str) -> Body | None:
    """Read the inside of DeepSeek's block of calls, in the forms of V3 and V3.1."""
    calls: list[Call] = []
    try:
        while _DEEPSEEK_BEGIN in body:
            call, body = _deepseek_call(body.partition(_DEEPSEEK_BEGIN)[2])
            calls.append(call)
    except _UNREADABLE:
        return None
    return (calls, "") if calls else None


def _call(value: Any) -> Call:
    function = value.get("function", value) if isinstance(value, dict) else {}
    arguments = function["arguments"] if "arguments" in function else function["parameters"]
    return _name(function["name"]), _arguments(arguments)


def _function(piece: str, texts: Texts) -> Call:
    name, _, inside = piece.partition("</function>")[0].partition(">")
    parameters = (one.partition("</parameter>")[0] for one in inside.split("<parameter=")[1:])
    named = (parameter.partition(">") for parameter in parameters)
    values = {key: _value(text, is_text=(name, key) in texts) for key, _, text in named}
    return _name(name), _json(values)


def _value(text: str, *, is_text: bool) -> Any:
    """Return a parameter's value: JSON if it is that and need not be a text, else the text."""
    text = text.removeprefix("\n").removesuffix("\n")
    if is_text:
        return text
    try:
        value = json.loads(text)
        _json(value)
    except (ValueError, RecursionError):
        return text
    return value


def _deepseek_call(text: str) -> tuple[Call, str]:
    """Return the call at the beginning of a text, and what follows it."""
    name, _, rest = text.partition(_DEEPSEEK_SEPARATOR)
    if name == "function":
        name, _, rest = rest.partition("\n```json\n")
    value, rest = None, rest.lstrip()
    if not rest.startswith(_DEEPSEEK_END):
        value, end = _decoder.raw_decode(rest)
        rest = rest[end:].lstrip().removeprefix("```")
    between, _, after = rest.partition(_DEEPSEEK_END)
    if between.strip():
        raise ValueError(between)
    return (_name(name.strip()), _arguments(value)), after


def _name(name: Any) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(name)
    return str(name)


def _arguments(value: Any) -> str:
    """Return a call's arguments, which may be JSON in a text, as JSON text.

    Raises:
        ValueError: They are not JSON.
        TypeError: They are not an object.
    """
    if value in (None, ""):
        return "{}"
    if isinstance(value, str):
        value = _decoder.decode(value)
    if not isinstance(value, dict):
        raise TypeError(value)
    return _json(value)


def _json(value: object) -> str:
    """Return JSON text that can be encoded.

    Raises:
        ValueError: A number is infinite or NaN.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can express
        return json.dumps(value)
    return text
