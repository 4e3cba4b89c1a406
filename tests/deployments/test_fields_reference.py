"""The page of the references' fields is current, and says of each field what the node does."""

from pathlib import Path
from typing import Any, Final

import pytest

from deployments.fields_reference import PARTS, Claim, Part, claims, write_reference
from node.api import reading
from node.api.neutral import is_neutral
from node.errors import InvalidRequestError

PAGE: Final = Path(__file__).parents[2] / "docs" / "api-fields.md"
REFUSALS: Final = (
    "is not a field",
    "is not supported: remove it",
    "is not supported beyond",
    "were replaced",
)
STRANGE: Final = (True, 7, "x", [1], {"x": 1})
"""A value of each kind; no field means something by all of them."""
CALL: Final = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
OBJECTS: Final[dict[str, dict[str, Any]]] = {
    "messages[]": {"role": "user", "content": "x"},
    "messages[].content[]": {"type": "text", "text": "x"},
    "messages[].tool_calls[]": CALL,
    "messages[].tool_calls[].function": CALL["function"],  # type: ignore[dict-item]
    "input[]": {"role": "user", "content": "x"},
    "input[].content[]": {"type": "input_text", "text": "x"},
    "tools[]": {},
    "tools[].function": {"name": "f"},
    "tool_choice": {"type": "function"},
    "response_format": {"type": "text"},
    "response_format.json_schema": {"schema": {}},
    "stream_options": {},
    "text": {},
    "text.format": {"type": "text"},
    "reasoning": {},
    "thinking": {"type": "enabled"},
}
"""An object for each place that is read without an objection to its kind."""
CASES: Final = [
    pytest.param(part, claim, id=f"{part.path}-{part.place}-{claim.name}")
    for part in PARTS
    for claim in claims(part)
]


def body(part: Part, given: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return a body with these fields at a part's place, and the path of that place."""
    if not part.place:
        return given, ""
    document: Any = OBJECTS[part.place] | given
    place, path = part.place, part.place.replace("[]", "[0]") + "."
    while place:
        place, _, name = place.rpartition(".")
        document = {name.removesuffix("[]"): [document] if name.endswith("[]") else document}
        document = OBJECTS.get(place, {}) | document
    return document, path


def complaints(part: Part, claim: Claim, value: object) -> list[str]:
    """Return what is said of a field with this value."""
    document, path = body(part, {claim.name: value})
    kind: Any = next(p.ours for p in PARTS if p.path == part.path and not p.place)
    try:
        reading.convert(document, kind)
    except InvalidRequestError as error:
        return [said for said in str(error).split("; ") if f"`{path}{claim.name}`" in said]
    return []


def is_refused(said: list[str]) -> bool:
    """Return whether something is said against the field itself, not only against its value."""
    return any(refusal in one for one in said for refusal in REFUSALS)


def test_page_of_the_fields_is_current() -> None:
    """It shows how the code reads the fields of the pinned packages (`just docs`)."""
    assert write_reference() == PAGE.read_text()


@pytest.mark.parametrize(("part", "claim"), CASES)
def test_field_is_treated_as_the_page_says(part: Part, claim: Claim) -> None:
    """A refused field is refused by name with any other value; others are read."""
    for value in STRANGE:
        refused = is_refused(complaints(part, claim, value))
        assert refused == (claim.how == "refused" and not is_neutral(value, claim.values)), value


@pytest.mark.parametrize(("part", "claim"), CASES)
def test_harmless_values_are_accepted(part: Part, claim: Claim) -> None:
    """The listed values and null mean the same as no field."""
    for value in (*claim.values, *([] if claim.is_required else [None])):
        said = complaints(part, claim, value)
        assert not said or all("is required" in one for one in said), value


def test_refusals_are_explained() -> None:
    """Each field that is refused or has no effect says why."""
    unexplained = {
        f"{part.place}.{claim.name}"
        for part in PARTS
        for claim in claims(part)
        if claim.how != "taken" and not claim.note
    }
    assert not unexplained
