"""Grammars of numbers between two bounds.

Numbers are written as whole ones, perhaps with a fraction, so some that are between the bounds
cannot be written; none that is outside can.
"""

import math
from collections.abc import Iterator
from typing import Final

import msgspec

from node.engine.llama_cpp.gbnf.rules import either

_LARGEST: Final = 10**16 - 1
_FRACTION: Final = '("." [0-9]{1,16})?'
_NO_FRACTION: Final = '("." "0"{1,16})?'
_SOME_FRACTION: Final = '"." [0-9]{0,15} [1-9]'


class Bounds(msgspec.Struct, frozen=True):
    """The numbers from `low` to `high`, without those of the two that are open."""

    low: int | float = -_LARGEST
    high: int | float = _LARGEST
    is_low_open: bool = False
    is_high_open: bool = False

    @property
    def first(self) -> int:
        """The first whole number."""
        if self.low <= -_LARGEST:
            return -_LARGEST
        first = math.ceil(min(self.low, _LARGEST + 1))
        return first + (self.is_low_open and first == self.low)

    @property
    def last(self) -> int:
        """The last whole number."""
        return -self.mirrored.first

    @property
    def mirrored(self) -> "Bounds":
        """The negatives of these numbers."""
        return Bounds(-self.high, -self.low, self.is_high_open, self.is_low_open)

    @property
    def not_negative(self) -> "Bounds":
        """Those of the numbers that are zero or more."""
        is_low_open = self.low == 0 and self.is_low_open
        return self if self.low > 0 else Bounds(0, self.high, is_low_open, self.is_high_open)

    @property
    def positive(self) -> "Bounds":
        """Those of the numbers that are more than zero."""
        return self if self.low > 0 else Bounds(0, self.high, True, self.is_high_open)


def integers(bounds: Bounds) -> str:
    """Return what matches the integers between two bounds; empty if there are none."""
    negative = bounds.mirrored.positive
    signed = [f'"-" ({one})' for one in [_wholes(negative.first, negative.last)] if one]
    return either(filter(None, [*signed, _wholes(bounds.not_negative.first, bounds.last)]))


def decimals(bounds: Bounds) -> str:
    """Return what matches numbers between two bounds; empty if none can be written."""
    negative = either(_decimals(bounds.mirrored.positive))
    signed = [f'"-" ({negative})'] if negative else []
    return either([*signed, *_decimals(bounds.not_negative)])


def _decimals(bounds: Bounds) -> Iterator[str]:
    """Yield what matches numbers that are not negative."""
    first, last = bounds.first, bounds.last
    below = first - 1
    if bounds.is_low_open and below == bounds.low and first <= bounds.high:
        yield f"({_wholes(below, below)}) {_SOME_FRACTION}"
    top = last if last + 1 > bounds.high else last + 1  # `high` itself is open
    if wholes := _wholes(first, top - 1):
        yield f"({wholes}) {_FRACTION}"
    if first <= top == last:
        yield f"({_wholes(last, last)}) {_NO_FRACTION}"


def _wholes(first: int, last: int) -> str:
    """Return what matches the whole numbers from one that is not negative to another."""
    choices: list[str] = []
    for digits in range(len(str(first)), len(str(max(first, last))) + 1):
        low = max(first, 10 ** (digits - 1) if digits > 1 else 0)
        high = min(last, 10**digits - 1)
        choices += _same_length(str(low), str(high)) if low <= high else []
    return either(choices)


def _same_length(low: str, high: str) -> Iterator[str]:
    """Yield what matches the numbers between two of the same number of digits."""
    if low == high:
        yield f'"{low}"'
        return
    rest = len(low) - 1
    is_low_whole, is_high_whole = not low[1:].strip("0"), not high[1:].strip("9")
    if low[0] == high[0]:
        yield from (f'"{low[0]}" {one}' for one in _same_length(low[1:], high[1:]))
        return
    if not is_low_whole:
        yield from (f'"{low[0]}" {one}' for one in _same_length(low[1:], "9" * rest))
    lowest, highest = int(low[0]) + (not is_low_whole), int(high[0]) - (not is_high_whole)
    if lowest <= highest:
        yield f"[{lowest}-{highest}]" + (f" [0-9]{{{rest}}}" if rest else "")
    if not is_high_whole:
        yield from (f'"{high[0]}" {one}' for one in _same_length("0" * rest, high[1:]))
