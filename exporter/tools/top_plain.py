"""A picture as plain text, for pipes and files."""

from collections.abc import Iterator

from exporter.status.snapshot import Snapshot
from exporter.tools import top_tables as tables
from exporter.tools.top_tables import Table


def as_text(snapshot: Snapshot) -> str:
    """Return the picture as lines of text, without colours or cursor movements."""
    return "\n".join(line.rstrip() for line in _lines(snapshot)) + "\n"


def _lines(snapshot: Snapshot) -> Iterator[str]:
    yield tables.headline(snapshot)
    yield from (f"  {problem}" for problem in tables.problems(snapshot))
    for node in snapshot.nodes:
        yield from ("", tables.node_title(node))
        yield from (f"  {line}" for line in tables.node_lines(node))
        yield from ("", *_table(tables.models(node)))
    yield from ("", *_table(tables.requests(snapshot)))


def _table(table: Table) -> Iterator[str]:
    """Align the columns; a table without rows is not shown."""
    if not table.rows:
        return
    rows = [table.columns, *table.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    yield table.title
    for row in rows:
        cells = zip(table.columns, row, widths, strict=True)
        yield "  " + "  ".join(
            cell.rjust(width) if name in table.numeric else cell.ljust(width)
            for name, cell, width in cells
        )
