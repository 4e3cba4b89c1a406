"""The rows that a fault returns, one for each promise, and their printed form."""

import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Final, NamedTuple

_WIDTHS: Final = (20, 44, 56, 4)


class Row(NamedTuple):
    """A promise, the measurement, and whether the promise held; None if it was not tested."""

    promised: str
    measured: str
    held: bool | None


def skipped(reason: str) -> Row:
    """Return the row of a fault that cannot be made on this machine."""
    return Row("not tried here", reason, None)


def print_header() -> None:
    """Print the column names."""
    _print_line(("fault", "promised", "measured", "held"))
    _print_line(tuple("-" * width for width in _WIDTHS))


def print_rows(fault: str, rows: Iterable[Row]) -> None:
    """Print the rows of a fault, with its name beside the first."""
    words = {True: "yes", False: "NO", None: "skip"}
    for row in rows:
        _print_line((fault, row.promised, row.measured, words[row.held]))
        fault = ""


def _print_line(cells: Sequence[str]) -> None:
    wrapped = [textwrap.wrap(cell, width) for cell, width in zip(cells, _WIDTHS, strict=True)]
    for line in zip_longest(*wrapped, fillvalue=""):
        padded = (part.ljust(width) for part, width in zip(line, _WIDTHS, strict=True))
        print("  ".join(padded).rstrip(), flush=True)
