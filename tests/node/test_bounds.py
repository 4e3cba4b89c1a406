"""Bounds in a schema that contradict each other are found, with their place."""

from typing import Any

import pytest

from node.engine.llama_cpp.bounds import find_contradiction
from node.engine.llama_cpp.errors import RefusedError
from node.engine.llama_cpp.grammar import tools_body


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({"type": "array", "minItems": 5, "maxItems": 2}, "#: minItems 5 is more than maxItems 2"),
        ({"type": "string", "pattern": "^a{5,2}$"}, "#: the pattern repeats at least 5 and"),
        ({"minimum": 9, "exclusiveMaximum": 3.5}, "#: minimum 9 is more than"),
        (
            {"anyOf": [{}, {"properties": {"a": {"minLength": 3, "maxLength": 2}}}]},
            "#/anyOf/1/properties/a: minLength 3",
        ),
    ],
)
def test_contradiction_is_found(schema: dict[str, Any], fault: str) -> None:
    """The fault is told with its place."""
    assert (find_contradiction(schema) or "").startswith(fault)


@pytest.mark.parametrize(
    "schema",
    [
        {"minItems": 2, "maxItems": 2, "items": {"minimum": 0, "maximum": 9}},
        {"pattern": r"^a{2,5}\{5,2}$", "minLength": "x", "maxLength": 1},
        {"const": {"minItems": 2, "maxItems": 1}},
        {"properties": {"minItems": {"type": "integer"}, "maxItems": {"const": 1}}},
    ],
)
def test_other_schema_is_fine(schema: dict[str, Any]) -> None:
    """What does not contradict itself is left to the compiler."""
    assert find_contradiction(schema) is None


def test_only_strict_functions_are_checked() -> None:
    """A contradiction is told with the function's name; without `strict` no schema is compiled."""
    parameters = {"properties": {"a": {"minItems": 5, "maxItems": 2}}}
    tools = [{"type": "function", "function": {"name": "add", "parameters": parameters}}]
    assert tools_body(tools, ())
    with pytest.raises(RefusedError, match="at add: #/properties/a: minItems 5 is more"):
        tools_body(tools, ("add",))
