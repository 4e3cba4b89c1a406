"""Reads a request into its struct, or reports everything that is wrong with it at once.

msgspec alone reads a body that has only supported fields, in a few microseconds, but stops at the
first fault of any other. Such a body is read again here, field by field: neutral values are left
out, and each fault is recorded with its full path.
"""

import functools
import re
import types
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

import msgspec

from node.api import json_text
from node.api.chat_schema import Message, TextPart
from node.api.neutral import NEUTRAL, Values, is_neutral
from node.api.schema import Body
from node.api.tools import FieldError
from node.errors import InvalidRequestError

MOST_FAULTS: Final = 10
"""How many faults are reported; a body may have a million."""

_OLD_TOOLS: Final = "functions were replaced by tools: use `tool_calls` and the role tool"
_JSON_TYPES: Final = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_WORD: Final = re.compile("|".join(rf"\b{word}\b" for word in _JSON_TYPES))

_Kind = TypeVar("_Kind", bound=Body)


def decode(body: bytes, kind: type[_Kind]) -> _Kind:
    """Read a JSON body.

    Raises:
        InvalidRequestError: It is not JSON, or a field is unknown, missing, of a wrong type, or
            asks for something unsupported.
    """
    try:
        asked: _Kind = _decoder(kind).decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return convert(json_text.parse(body), kind)
    json_text.refuse_repeated_keys(body.decode())
    asked.check()
    return asked


@functools.cache
def _fields(kind: Any) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.name: field for field in msgspec.structs.fields(kind)}


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def convert(document: object, kind: type[_Kind]) -> _Kind:
    """Convert a document that is already parsed, or is not JSON, with the same limits.

    Raises:
        InvalidRequestError: A field is unknown, missing, of a wrong type, or asks for something
            unsupported.
    """
    faults = _Faults()
    asked: _Kind = _read_struct(document, kind, None, faults)
    faults.refuse()
    asked.check()
    return asked


@dataclass(frozen=True)
class _Fault:
    path: str | None
    """None for the body as a whole."""
    text: str


class _Faults:
    """The faults of one request."""

    def __init__(self) -> None:
        self._found: list[_Fault] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, path: str | None, problem: str) -> None:
        """Record a fault. Stop reading after too many."""
        subject = "the body" if path is None else f"`{path}`"
        self._found.append(_Fault(path, f"{subject} {problem}"))
        if len(self._found) > MOST_FAULTS:
            self.refuse()

    def refuse(self) -> None:
        """Raise an error that names the faults, if there are any."""
        if not self._found:
            return
        texts = [fault.text for fault in self._found[:MOST_FAULTS]]
        if len(texts) > 1:
            count = f"{len(texts)} fields" if len(self) <= MOST_FAULTS else "many fields"
            texts[0] = f"{count} are refused: {texts[0]}"
        raise InvalidRequestError("; ".join(texts), parameter=self._found[0].path)


def _read_struct(document: object, kind: type[Any], path: str | None, faults: _Faults) -> Any:
    """Return the struct; None if it has a fault."""
    if not isinstance(document, dict):
        faults.add(path, "must be a JSON object")
        return None
    if (refused := _refused_as_a_whole(document, kind)) is not None:
        name, reason = refused
        faults.add(_joined(path, name), f"is not supported: {reason}")
        return None
    before = len(faults)
    given = _read_fields(document, kind, path, faults)
    if len(faults) > before:
        return None
    try:
        return kind(**given)
    except FieldError as error:
        faults.add(_joined(path, error.field), error.problem)
        return None


def _read_fields(
    document: dict[str, Any], kind: Any, path: str | None, faults: _Faults
) -> dict[str, Any]:
    """Return the given values of the struct's fields, without neutral values."""
    neutral = NEUTRAL.get(kind, {})
    fields = _fields(kind)
    given = {}
    for name, value in document.items():
        if name == kind.__struct_config__.tag_field:
            continue
        where = _joined(path, json_text.shown(name))
        if name in neutral and is_neutral(value, neutral[name]):
            continue
        if value is None and name in fields and not fields[name].required:
            continue
        if name in fields:
            given[name] = _read_value(value, fields[name].type, where, faults)
        else:
            faults.add(where, _refusal(neutral.get(name)))
    for field in fields.values():
        if field.required and field.name not in document:
            faults.add(_joined(path, field.name), "is required")
    return given


def _joined(path: str | None, name: str) -> str:
    return name if path is None else f"{path}.{name}"


def _read_value(value: object, annotation: Any, where: str, faults: _Faults) -> Any:
    """Return the value in its type; None if it has a fault."""
    try:
        return msgspec.convert(value, annotation)
    except msgspec.ValidationError as error:
        return _read_parts(value, annotation, where, faults, error)


def _read_parts(
    value: object, annotation: Any, where: str, faults: _Faults, error: msgspec.ValidationError
) -> Any:
    """Read a value part by part after the error, because it is not valid as a whole."""
    choices = _choices(annotation)
    if isinstance(value, float) and value.is_integer() and int in choices:
        return _read_value(int(value), annotation, where, faults)  # JSON has one kind of number
    structs = [choice for choice in choices if isinstance(choice, type(msgspec.Struct))]
    if isinstance(value, dict) and structs:
        return _read_choice(value, structs, where, faults)
    for choice in choices:
        if isinstance(value, list) and get_origin(choice) is list:
            return _read_list(value, annotation, get_args(choice)[0], where, faults)
    faults.add(where, _problem(error))
    return None


def _read_choice(value: dict[str, Any], kinds: list[Any], where: str, faults: _Faults) -> Any:
    """Return one of several structs, which its tag tells."""
    tags = {kind.__struct_config__.tag: kind for kind in kinds}
    if len(kinds) == 1:
        return _read_struct(value, kinds[0], where, faults)
    field = kinds[0].__struct_config__.tag_field
    tag = value.get(field)
    if isinstance(tag, str) and tag in tags:
        return _read_struct(value, tags[tag], where, faults)
    problem = "is required" if tag is None else f"is not supported: use {' or '.join(tags)}"
    faults.add(_joined(where, field), problem)
    return None


def _read_list(
    values: list[Any], annotation: Any, item: Any, where: str, faults: _Faults
) -> list[Any] | None:
    before = len(faults)
    read = [
        _read_value(value, item, f"{where}[{number}]", faults)
        for number, value in enumerate(values)
    ]
    if len(faults) > before:
        return None
    try:
        converted: list[Any] = msgspec.convert(read, annotation)
    except msgspec.ValidationError as error:  # the tuple's length
        faults.add(where, _problem(error))
        return None
    return converted


@functools.cache
def _choices(annotation: Any) -> tuple[Any, ...]:
    """Return the types that an annotation allows, without their limits."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _choices(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return tuple(one for choice in get_args(annotation) for one in _choices(choice))
    return (annotation,)


def _refused_as_a_whole(document: dict[str, Any], kind: type[Any]) -> tuple[str, str] | None:
    """Return the field that makes an object unsupported as a whole, and the reason.

    Other faults of the object do not matter then.
    """
    if kind is TextPart and document.get("type", "text") != "text":
        return "type", "a message's parts can only be text"
    if kind is Message and document.get("function_call"):
        return "function_call", _OLD_TOOLS
    if kind is Message and document.get("role") == "function":
        return "role", _OLD_TOOLS
    return None


def _refusal(values: Values | None) -> str:
    if values is None:
        return "is not a field of this API: remove it"
    if not values:
        return "is not supported: remove it"
    taken = " or ".join(msgspec.json.encode(value).decode() for value in values)
    return f"is not supported beyond its default ({taken}): remove it"


def _problem(error: msgspec.ValidationError) -> str:
    """Return the problem in JSON's terms, without msgspec's path: the full one is known here."""
    text = str(error).partition(" - at `$")[0]
    text = re.sub(r"`[^`]*`", lambda types: _WORD.sub(_in_json, types[0]), text)
    return f"is invalid: {text[:1].lower()}{text[1:]}"


def _in_json(word: "re.Match[str]") -> str:
    return _JSON_TYPES[word[0]]
