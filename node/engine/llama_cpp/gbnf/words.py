"""The keywords of a JSON schema that a grammar follows, checked for their types."""

from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec

from node.engine.llama_cpp.gbnf.numbers import Bounds
from node.engine.llama_cpp.gbnf.rules import refuse

Count = Annotated[int, msgspec.Meta(ge=0)]
Number = int | float

_HINTS: Final = {
    "object": ("properties", "required", "additional", "patterns"),
    "array": ("items", "prefix_items", "min_items", "max_items"),
    "string": ("pattern", "format", "min_length", "max_length"),
    "number": ("minimum", "maximum", "above", "below"),
}
"""Keywords that tell the type if it is not given."""


class Words(msgspec.Struct, frozen=True, rename="camel"):
    """One schema. None means that a keyword is absent."""

    ref: str | None = msgspec.field(default=None, name="$ref")
    const: Any = msgspec.UNSET
    enum: list[Any] | None = None
    all_of: list[Any] | None = None
    any_of: list[Any] | None = None
    one_of: list[Any] | None = None
    type: str | list[str] | None = None
    properties: dict[str, Any] | None = None
    required: list[str] | None = None
    additional: Any = msgspec.field(default=None, name="additionalProperties")
    patterns: dict[str, Any] | None = msgspec.field(default=None, name="patternProperties")
    items: Any = None
    prefix_items: list[Any] | None = None
    min_items: Count | None = None
    max_items: Count | None = None
    pattern: str | None = None
    format: str | None = None
    min_length: Count | None = None
    max_length: Count | None = None
    minimum: Number | None = None
    maximum: Number | None = None
    above: Number | None = msgspec.field(default=None, name="exclusiveMinimum")
    below: Number | None = msgspec.field(default=None, name="exclusiveMaximum")

    @classmethod
    def read(cls, schema: dict[str, Any], place: str) -> "Words":
        """Return the keywords of a schema.

        Raises:
            RefusedError: One has a value of the wrong type.
        """
        try:
            return msgspec.convert(schema, cls)
        except msgspec.ValidationError as error:
            raise refuse(place, str(error)) from None

    @property
    def types(self) -> list[str]:
        """The types of what matches; `value` for any."""
        if isinstance(self.type, str):
            return [self.type]
        if self.type is not None:
            return self.type
        hinted = (
            kind
            for kind, names in _HINTS.items()
            if any(getattr(self, name) is not None for name in names)
        )
        return [next(hinted, "value")]

    @property
    def bounds(self) -> Bounds:
        """The numbers that match."""
        lows = [(self.minimum, False), (self.above, True)]
        highs = [(self.maximum, False), (self.below, True)]
        low = max(((one, is_open) for one, is_open in lows if one is not None), default=None)
        high = min(((one, not is_open) for one, is_open in highs if one is not None), default=None)
        bounds = Bounds() if low is None else Bounds(low[0], is_low_open=low[1])
        if high is None:
            return bounds
        return msgspec.structs.replace(bounds, high=high[0], is_high_open=not high[1])

    @property
    def elements(self) -> tuple[list[Any], Any]:
        """The schemas of an array's first elements, and that of the others."""
        if isinstance(self.items, list):  # as older drafts have it
            return self.items, None
        return self.prefix_items or [], self.items

    def members(self, other: Any) -> Iterator[tuple[str, Any]]:
        """Yield the names of an object's properties with their schemas.

        Args:
            other: The schema of those that are required but not described.
        """
        described = self.properties or {}
        yield from described.items()
        yield from ((name, other) for name in self.required or () if name not in described)
