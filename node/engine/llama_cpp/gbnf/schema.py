"""Compiles a JSON schema to a grammar.

What the grammar allows matches the schema, but for the keywords of `docs/api.md` that no grammar
can say. The reverse does not hold: without `additionalProperties` an object has the properties that
the schema names, and values are written in one form only.
"""

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from node.engine.llama_cpp.gbnf.members import join_members, other_name
from node.engine.llama_cpp.gbnf.merging import merge, without
from node.engine.llama_cpp.gbnf.numbers import Bounds, decimals, integers
from node.engine.llama_cpp.gbnf.pattern import compile_pattern
from node.engine.llama_cpp.gbnf.rules import Rules, either, json_literal, refuse, repeated
from node.engine.llama_cpp.gbnf.words import Words

_NESTED_AT_MOST: Final = 64
_FORMATS: Final = {
    "date": "date",
    "time": "time",
    "date-time": 'date "T" time',
    "uuid": "uuid",
}
"""Formats that are followed; others are not."""
_UNBOUNDED: Final = Bounds()


def compile_schema(schema: dict[str, Any]) -> str:
    """Return the grammar of the JSON texts that match a schema.

    Raises:
        RefusedError: The schema has a fault, or something that a grammar cannot say. The text
            names the place.
    """
    compiler = _Compiler(schema)
    return compiler.rules.write(compiler.follow(schema, "#"))


class _Compiler:
    def __init__(self, document: dict[str, Any]) -> None:
        self.rules = Rules()
        self._document = document
        self._named: dict[str, str] = {}
        """The rules of references."""
        self._open: frozenset[str] = frozenset()
        """The references that are followed since the last character."""
        self._depth = 0

    def follow(self, schema: Any, place: str) -> str:
        """Return the name of the rule for a schema."""
        self._depth += 1
        if self._depth > _NESTED_AT_MOST:
            raise refuse(place, "the schema is nested too deeply, or refers to itself")
        rule = self.rules.add(self._expression(schema, place))
        self._depth -= 1
        return rule

    def _expression(self, schema: Any, place: str) -> str:
        if schema is True:
            return "value"
        if not isinstance(schema, dict):
            raise refuse(place, "nothing matches" if schema is False else "this is not a schema")
        words = Words.read(schema, place)
        if words.ref is not None:
            return self._refer(words.ref, place)
        values = words.enum if words.const is msgspec.UNSET else [words.const]
        if values is not None:
            return self._either(map(json_literal, values), f"{place}/enum")
        if words.all_of is not None:
            parts = [without(schema, "allOf"), *(self._resolve(p, place) for p in words.all_of)]
            return self.follow(merge(parts, place), place)
        for key, choices in (("anyOf", words.any_of), ("oneOf", words.one_of)):
            if choices is not None:
                return self._choose(choices, without(schema, key), f"{place}/{key}")
        return self._either((self._typed(kind, words, place) for kind in words.types), place)

    def _either(self, choices: Iterable[str], place: str) -> str:
        if found := either(choices):
            return found
        raise refuse(place, "nothing matches, because it is empty")

    def _choose(self, choices: list[Any], rest: dict[str, Any], place: str) -> str:
        """Return what matches one of several schemas, and the rest of theirs."""
        rules = []
        for number, choice in enumerate(choices):
            inner = f"{place}/{number}"
            whole = merge([rest, self._resolve(choice, inner)], inner) if rest else choice
            rules.append(self.follow(whole, inner))
        return self._either(rules, place)

    def _typed(self, kind: str, words: Words, place: str) -> str:
        match kind:
            case "object":
                return self._object(words, place)
            case "array":
                return self._array(words, place)
            case "string":
                return self._string(words, place)
            case "integer" | "number":
                return self._number(kind, words, place)
            case "boolean" | "null" | "value":
                return kind
        raise refuse(place, f"unrecognized type {kind}")

    def _number(self, kind: str, words: Words, place: str) -> str:
        bounds = words.bounds
        if bounds == _UNBOUNDED:
            return kind
        found = integers(bounds) if kind == "integer" else decimals(bounds)
        if not found:
            raise refuse(place, "the bounds have no whole number between them")
        return found

    def _string(self, words: Words, place: str) -> str:
        if words.pattern is not None:
            content = compile_pattern(words.pattern, f"{place}/pattern")
        elif words.format in _FORMATS:
            content = _FORMATS[words.format]
        else:
            least = words.min_length or 0
            content = repeated("character", least, words.max_length, place)
        return rf'"\"" {content} "\""'

    def _array(self, words: Words, place: str) -> str:
        first, rest = words.elements
        first = first[: words.max_items]
        before = [self._inside(one, f"{place}/prefixItems/{n}") for n, one in enumerate(first)]
        least = max(0, (words.min_items or 0) - len(before))
        most = None if words.max_items is None else words.max_items - len(before)
        if (before and rest is None) or (rest is False and not least):
            most = least
        after = "" if most == 0 else self._inside(True if rest is None else rest, f"{place}/items")
        members = join_members(self.rules, before, (), after, (least, most), place)
        return f'"[" space {members} "]"'

    def _object(self, words: Words, place: str) -> str:
        more: Any = words.additional
        if more is None:  # an object without described properties has any
            more = not words.properties and not words.required
        if more is not False and words.patterns:
            raise refuse(f"{place}/patternProperties", "more properties are allowed beside these")
        described = dict(words.members(more or True))
        pairs = {
            name: self._pair(json_literal(name), schema, f"{place}/properties/{name}")
            for name, schema in described.items()
        }
        required = [pairs.pop(name) for name in described if name in (words.required or ())]
        after = ""
        if more is not False:
            name = other_name(self.rules, list(described)) if described else "string"
            after = self._pair(name, more, f"{place}/additionalProperties")
        members = join_members(self.rules, required, list(pairs.values()), after, place=place)
        return f'"{{" space {members} "}}"'

    def _pair(self, name: str, schema: Any, place: str) -> str:
        return self.rules.add(f'{name} ":" space {self._inside(schema, place)}')

    def _inside(self, schema: Any, place: str) -> str:
        """Return the rule for a schema that applies after some characters."""
        before, self._open = self._open, frozenset()
        rule = self.follow(schema, place)
        self._open = before
        return rule

    def _refer(self, reference: str, place: str) -> str:
        if reference in self._open:
            raise refuse(place, f"the reference {reference} leads back to itself")
        if reference not in self._named:
            self._named[reference] = self.rules.reserve()
            before, self._open = self._open, self._open | {reference}
            rule = self.follow(self._find(reference, place), reference)
            self._open = before
            self.rules.define(self._named[reference], rule)
        return self._named[reference]

    def _resolve(self, schema: Any, place: str) -> Any:
        """Return a schema that is not a reference."""
        seen = set()
        while isinstance(schema, dict) and isinstance(reference := schema.get("$ref"), str):
            if reference in seen:
                raise refuse(place, f"the reference {reference} leads back to itself")
            seen.add(reference)
            schema = self._find(reference, place)
        return schema

    def _find(self, reference: str, place: str) -> Any:
        if not reference.startswith("#"):
            raise refuse(place, f"the reference {reference} does not begin with #")
        found: Any = self._document
        for step in unquote(reference[1:]).split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(name) if isinstance(found, list) else name]
            except (KeyError, IndexError, TypeError, ValueError):
                raise refuse(place, f"the reference {reference} leads nowhere") from None
        return found
