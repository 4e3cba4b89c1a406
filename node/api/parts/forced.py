"""Reads answers that a JSON schema forces to be calls, whatever the model's own format is."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from node.api.parts.bodies import read_objects
from node.api.parts.part import CallNumbers
from node.requests.parts import CallArguments, Part

Schema = dict[str, Any]

_ANY_OBJECT: Final[Schema] = {"type": "object"}


class NamedCallReader:
    """Reads an answer that is the arguments of one function; they are passed on as they come.

    Args:
        name: The function.
    """

    def __init__(self, name: str) -> None:
        self._begun = CallNumbers(1).begin(name)

    def feed(self, text: str) -> list[Part]:
        """Return the next piece of the arguments, and first the call."""
        arguments: list[Part] = [CallArguments(0, text)] if text else []
        begun, self._begun = self._begun, None
        return arguments if begun is None else [begun, *arguments]

    def finish(self) -> list[Part]:
        """Return the call if it has no arguments yet."""
        return self.feed("")


class CallListReader:
    """Reads an answer that is a list of calls; each is shown when it is complete."""

    def __init__(self) -> None:
        self._numbers = CallNumbers(math.inf)
        self._held = ""
        self._depth = 0
        self._in_text = False
        self._is_escaped = False

    def feed(self, text: str) -> list[Part]:
        """Return the calls that are complete now."""
        return list(self._read(text))

    def finish(self) -> list[Part]:
        """Return nothing: a call that is not complete is cut off with the answer."""
        return []

    def _read(self, text: str) -> Iterator[Part]:
        for character in text:
            is_inside = self._depth > 0
            self._follow(character)
            if is_inside or self._depth > 0:
                self._held += character
            if is_inside and not self._depth:
                calls, _ = read_objects(self._held) or ((), "")
                for name, arguments in calls:
                    yield from self._numbers.whole(name, arguments)
                self._held = ""

    def _follow(self, character: str) -> None:
        """Follow the depth of objects, outside of texts."""
        if self._in_text:
            if character == '"' and not self._is_escaped:
                self._in_text = False
            self._is_escaped = character == "\\" and not self._is_escaped
        elif character == '"':
            self._in_text = True
        elif character in "{}":
            self._depth += 1 if character == "{" else -1


def arguments_schema(parameters: Schema | None) -> Schema:
    """Return the schema of an answer that is the arguments of one function."""
    return parameters or _ANY_OBJECT


def calls_schema(functions: Mapping[str, Schema | None], *, parallel: bool) -> Schema:
    """Return the schema of an answer that is a list of calls.

    Args:
        functions: The schema of each function's arguments.
        parallel: Whether there may be more than one call.
    """
    choices = [
        {
            "type": "object",
            "properties": {
                "name": {"const": name},
                "arguments": _moved(arguments_schema(parameters), number),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for number, (name, parameters) in enumerate(functions.items())
    ]
    limit = {} if parallel else {"maxItems": 1}
    return {"type": "array", "minItems": 1, "items": {"anyOf": choices}} | limit


def _moved(schema: Any, number: int) -> Any:
    """Return a schema whose references are right at its place in the list's schema."""
    if isinstance(schema, dict):
        return {
            key: _reference(value, number) if key == "$ref" else _moved(value, number)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_moved(item, number) for item in schema]
    return schema


def _reference(target: Any, number: int) -> Any:
    if not isinstance(target, str) or not target.startswith("#"):
        return target
    return f"#/items/anyOf/{number}/properties/arguments{target[1:]}"
