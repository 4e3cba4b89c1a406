"""Merges JSON schemas that apply together."""

from collections.abc import Sequence
from typing import Any, Final

from node.engine.llama_cpp.gbnf.rules import refuse

_SAY_NOTHING: Final = frozenset(
    {
        *("$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated"),
        *("description", "discriminator", "examples", "readOnly", "title", "writeOnly"),
    }
)
"""Keywords that do not limit what matches."""


def without(schema: dict[str, Any], key: str) -> dict[str, Any]:
    """Return what a schema says beside one keyword."""
    return {name: value for name, value in schema.items() if name not in {key, *_SAY_NOTHING}}


def merge(parts: Sequence[Any], place: str) -> dict[str, Any]:
    """Return one schema that says what all the parts say.

    Raises:
        RefusedError: Two parts say different things with one keyword.
    """
    merged: dict[str, Any] = {}
    for part in parts:
        if part is True:
            continue
        if not isinstance(part, dict):
            raise refuse(place, "nothing matches" if part is False else "this is not a schema")
        for key, value in without(part, "").items():
            merged[key] = _merge_values(key, merged[key], value, place) if key in merged else value
    return merged


def _merge_values(key: str, one: Any, other: Any, place: str) -> Any:
    if one == other:
        return one
    if key == "required" and isinstance(one, list) and isinstance(other, list):
        return [*one, *(name for name in other if name not in one)]
    if key == "properties" and isinstance(one, dict) and isinstance(other, dict):
        both = one.keys() & other.keys()
        return one | other | {name: {"allOf": [one[name], other[name]]} for name in both}
    if key == "allOf" and isinstance(one, list) and isinstance(other, list):
        return [*one, *other]
    raise refuse(place, f"{key} is given twice, with different values")
