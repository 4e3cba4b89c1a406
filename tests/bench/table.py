"""The table that every benchmark returns, and its printed form."""

from collections.abc import Sequence
from typing import Final, NamedTuple


class Row(NamedTuple):
    """One comparison."""

    what: str
    measured: str
    against: str
    """The peer or the limit, measured in the same run."""
    ratio: str
    aim: str = ""


_HEADER: Final = Row("", "measured", "against", "ratio", "aim")


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Print the rows in aligned columns."""
    lines = [_HEADER._replace(what=title), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())
    print(flush=True)
