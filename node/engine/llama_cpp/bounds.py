"""Finds bounds in a JSON schema that contradict each other.

llama-server's compiler takes a lower bound above the upper one for a range without an end, and
fills the memory with it.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

_PAIRS: Final = (
    ("minItems", "maxItems"),
    ("minLength", "maxLength"),
    ("minimum", "maximum"),
    ("exclusiveMinimum", "exclusiveMaximum"),
    ("minimum", "exclusiveMaximum"),
    ("exclusiveMinimum", "maximum"),
)
_VALUES: Final = frozenset({"const", "default", "enum", "examples"})
"""Keys whose values are not schemas."""
_REPEATED: Final = re.compile(r"(?<!\\)\{(\d{1,9}),(\d{1,9})\}", re.ASCII)
"""A range of repetitions in a regular expression."""


def find_contradiction(schema: Any, place: str = "#") -> str | None:
    """Return a place in a schema whose bounds contradict each other, and how; None if none do."""
    return next(_contradictions(schema, place), None)


def _contradictions(schema: Any, place: str) -> Iterator[str]:
    if isinstance(schema, list):
        for number, item in enumerate(schema):
            yield from _contradictions(item, f"{place}/{number}")
    elif isinstance(schema, dict):
        yield from (f"{place}: {fault}" for fault in _faults(schema))
        for name, inner in schema.items():
            if name not in _VALUES:
                yield from _contradictions(inner, f"{place}/{name}")


def _faults(schema: dict[str, Any]) -> Iterator[str]:
    for least, most in _PAIRS:
        low, high = schema.get(least), schema.get(most)
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            yield f"{least} {low} is more than {most} {high}"
    pattern = schema.get("pattern")
    for low, high in _REPEATED.findall(pattern) if isinstance(pattern, str) else ():
        if int(low) > int(high):
            yield f"the pattern repeats at least {low} and at most {high} times"
