"""Regular expressions as grammars of what a JSON string contains.

The syntax is ECMAScript's, as JSON Schema has it, without what looks around: assertions other than
at the ends, references to groups, and classes by property.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from node.engine.llama_cpp.errors import RefusedError
from node.engine.llama_cpp.gbnf.rules import either, literal, refuse, repeated

Ranges = list[tuple[int, int]]
"""Ranges of characters, with both ends."""

_LAST: Final = 0x10FFFF
_DIGITS: Final[Ranges] = [(0x30, 0x39)]
_WORDS: Final[Ranges] = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_BLANKS: Final[Ranges] = [(9, 13), (0x20, 0x20), (0xA0, 0xA0), (0x2028, 0x2029), (0xFEFF, 0xFEFF)]
_LINE_ENDS: Final[Ranges] = [(10, 10), (13, 13), (0x2028, 0x2029)]
_NOT_RAW: Final[Ranges] = [(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0xD800, 0xDFFF)]
"""What a JSON string does not contain as it is."""
_SHORT_ESCAPES: Final = '\b\t\n\f\r"\\'
_SETS: Final = {"d": _DIGITS, "w": _WORDS, "s": _BLANKS}
_CONTROL: Final = {"n": 10, "t": 9, "r": 13, "f": 12, "v": 11, "0": 0}
_CODE: Final = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}")
_QUANTIFIER: Final = re.compile(r"(?:([*+?])|\{(\d{1,9})(?:(,)(\d{1,9})?)?\})\??", re.ASCII)
_TIMES: Final[dict[str, tuple[int, int | None]]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_GROUP_KIND: Final = re.compile(r"\?:|\?P?<[A-Za-z_]\w*>")
_NESTED_AT_MOST: Final = 32


@dataclass(frozen=True)
class _Part:
    """What matches a part of a pattern, and whether it may match nothing."""

    text: str
    is_empty: bool


def compile_pattern(pattern: str, place: str) -> str:
    """Return what matches the content of JSON strings in which the pattern is found.

    Args:
        pattern: The regular expression.
        place: Where it is in the schema.

    Raises:
        RefusedError: It has a fault, or something that a grammar cannot say.
    """
    begins, ends = pattern.startswith("^"), re.search(r"(?<!\\)(?:\\\\)*\$\Z", pattern) is not None
    reader = _Reader(pattern[begins : len(pattern) - ends], place)
    middle = reader.read()
    return " ".join(
        [*([] if begins else ["character*"]), middle, *([] if ends else ["character*"])]
    )


class _Reader:
    def __init__(self, pattern: str, place: str) -> None:
        self._pattern = pattern
        self._place = place
        self._at = 0
        self._depth = 0

    def read(self) -> str:
        part = self._choice()
        if self._at < len(self._pattern):
            raise self._refuse("a group ends that did not begin")
        return part.text

    @property
    def _next(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self) -> str:
        character = self._next
        if not character:
            raise self._refuse("it ends too early")
        self._at += 1
        return character

    def _refuse(self, fault: str) -> RefusedError:
        return refuse(self._place, f"the pattern at character {self._at}: {fault}")

    def _choice(self) -> _Part:
        choices = [self._sequence()]
        while self._next == "|":
            self._at += 1
            choices.append(self._sequence())
        text = either(choice.text for choice in choices)
        return _Part(f"({text})", any(choice.is_empty for choice in choices))

    def _sequence(self) -> _Part:
        parts = []
        while self._next not in ("", "|", ")"):
            parts.append(self._quantified(self._atom()))
        text = " ".join(part.text for part in parts if part.text) or '""'
        return _Part(text, all(part.is_empty for part in parts))

    def _quantified(self, part: _Part) -> _Part:
        found = _QUANTIFIER.match(self._pattern, self._at)
        if found is None:
            return part
        self._at = found.end()
        sign, low, is_range, high = found.groups()
        least, most = _TIMES[sign] if sign else (int(low), int(high) if high else None)
        if not sign and not is_range:
            most = least
        if part.is_empty and most != 1:
            raise self._refuse("it repeats what may be empty")
        text = repeated(part.text, least, most, self._place)
        return _Part(text, part.is_empty or least == 0)

    def _atom(self) -> _Part:
        character = self._take()
        match character:
            case "(":
                return self._group()
            case "[":
                return self._set(self._class())
            case ".":
                return self._set(_inverted(_LINE_ENDS))
            case "\\":
                return self._set(self._escape())
            case "^" | "$":
                raise self._refuse(f"{character} is only known at the end of a pattern")
            case "*" | "+" | "?":
                raise self._refuse("there is nothing to repeat")
        return self._set([(ord(character), ord(character))])

    def _group(self) -> _Part:
        if kind := _GROUP_KIND.match(self._pattern, self._at):
            self._at = kind.end()
        if self._next == "?":
            raise self._refuse("groups that look around are not known")
        self._depth += 1
        if self._depth > _NESTED_AT_MOST:
            raise self._refuse("it is nested too deeply")
        part = self._choice()
        self._depth -= 1
        if self._take() != ")":
            raise self._refuse("a group does not end")
        return part

    def _set(self, ranges: Ranges) -> _Part:
        if text := _characters(ranges):
            return _Part(text, False)
        raise self._refuse("no character matches")

    def _class(self) -> Ranges:
        is_inverted = self._next == "^"
        self._at += is_inverted
        ranges: Ranges = []
        while self._next != "]":
            low = self._class_item()
            if self._next == "-" and self._pattern[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                high = self._class_item()
                low = [(low[0][0], high[0][1])]
                if low[0][0] > low[0][1]:
                    raise self._refuse("a range is upside down")
            ranges += low
        self._at += 1
        return _inverted(ranges) if is_inverted else ranges

    def _class_item(self) -> Ranges:
        character = self._take()
        if character == "\\":
            return [(8, 8)] if self._next == "b" and self._take() else self._escape()
        return [(ord(character), ord(character))]

    def _escape(self) -> Ranges:
        if code := _CODE.match(self._pattern, self._at):
            self._at = code.end()
            number = min(int(next(filter(None, code.groups())), 16), _LAST)
            return [(number, number)]
        character = self._take()
        if character.lower() in _SETS:
            ranges = _SETS[character.lower()]
            return ranges if character.islower() else _inverted(ranges)
        if character in _CONTROL:
            return [(_CONTROL[character], _CONTROL[character])]
        if character.isalnum():
            raise self._refuse(f"\\{character} is not known")
        return [(ord(character), ord(character))]


def _inverted(ranges: Ranges) -> Ranges:
    return list(_without([(0, _LAST)], ranges))


def _without(ranges: Ranges, others: Ranges) -> Iterator[tuple[int, int]]:
    """Yield the parts of ranges that are not in others."""
    for low, high in sorted(ranges):
        for other_low, other_high in sorted(others):
            if other_high >= low and other_low <= high:
                if low < other_low:
                    yield low, other_low - 1
                low = other_high + 1  # noqa: PLW2901 - the rest of the range
        if low <= high:
            yield low, high


def _characters(ranges: Ranges) -> str:
    """Return what matches one of some characters as a JSON string has it; empty if none can be."""
    raw = "".join(_range(low, high) for low, high in _without(ranges, _NOT_RAW))
    escaped = [
        literal(json.dumps(character)[1:-1])
        for character in _SHORT_ESCAPES
        if any(low <= ord(character) <= high for low, high in ranges)
    ]
    choices = [*([f"[{raw}]"] if raw else []), *escaped]
    return f"({either(choices)})" if len(choices) > 1 else "".join(choices)


def _range(low: int, high: int) -> str:
    return _code(low) if low == high else f"{_code(low)}-{_code(high)}"


def _code(character: int) -> str:
    if character < 0x80 and chr(character).isalnum():
        return chr(character)
    return f"\\U{character:08X}"
