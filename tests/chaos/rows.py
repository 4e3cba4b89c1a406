"""The rows that a fault gives, one for each promise, and how they are printed."""

import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Final, NamedTuple

_WIDTHS: Final = (20, 44, 56, 4)


class Row(NamedTuple):
    """One promise, what was measured, and whether it was held; None where it was not tried."""

    promised: str
    measured: str
    held: bool | None


def skipped(reason: str) -> Row:
    """Give the row of a fault that cannot be made on this machine."""
    return Row("not tried here", reason, None)


def print_header() -> None:
    """Print the names of the columns."""
    _print_line(("fault", "promised", "measured", "held"))
    _print_line(tuple("-" * width for width in _WIDTHS))


def print_rows(fault: str, rows: Iterable[Row]) -> None:
    """Print what a fault gave, its name beside its first promise."""
    words = {True: "yes", False: "NO", None: "skip"}
    for row in rows:
        _print_line((fault, row.promised, row.measured, words[row.held]))
        fault = ""


def _print_line(cells: Sequence[str]) -> None:
    wrapped = [textwrap.wrap(cell, width) for cell, width in zip(cells, _WIDTHS, strict=True)]
    for line in zip_longest(*wrapped, fillvalue=""):
        padded = (part.ljust(width) for part, width in zip(line, _WIDTHS, strict=True))
        print("  ".join(padded).rstrip(), flush=True)
