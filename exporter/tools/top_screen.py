"""A picture that fills a terminal and changes in place; the only module that imports rich."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from exporter.status.snapshot import Snapshot
from exporter.tools import top_tables as tables
from exporter.tools.top_tables import Table

_STYLES: Final = {"ok": "bold green", "degraded": "bold yellow", "failed": "bold red"}
_GOOD: Final = "green"
_BAD: Final = "red"
_INDENT: Final = 2
_BETWEEN: Final = 2
_LAST_CHARACTERS: Final = 8
"""A last column with less room than this, and less than it needs, is left out."""


class Screen:
    """The terminal; `open_screen` yields one."""

    def __init__(self, live: Live, url: str) -> None:
        self._live = live
        self._url = url
        self._shown: Snapshot | None = None

    def show(self, snapshot: Snapshot) -> None:
        """Replace what is shown."""
        self._shown = snapshot
        self._draw(Text(f"{self._url}  live", style=_GOOD))

    def lose(self, reason: str) -> None:
        """Show that the exporter is lost, above what was last known."""
        self._draw(Text(f"LOST, retrying: {reason}; what is shown is old", style=f"bold {_BAD}"))

    def _draw(self, connection: Text) -> None:
        width = self._live.console.width
        body = [] if self._shown is None else list(parts(self._shown, width))
        self._live.update(Group(connection, *body), refresh=True)


@contextmanager
def open_screen(url: str) -> Iterator[Screen]:
    """Use the terminal's second screen; the first is back afterwards."""
    # Without a thread of its own: each picture is drawn once.
    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        yield Screen(live, url)


def parts(snapshot: Snapshot, width: int) -> Iterator[RenderableType]:
    """Yield what is shown from top to bottom, for a terminal of so many columns."""
    yield Text(tables.headline(snapshot), style=_STYLES[snapshot.health])
    for problem in tables.problems(snapshot):
        yield Text(f"  {problem}", style=_BAD)
    for node in snapshot.nodes:
        yield Text()
        yield Text(tables.node_title(node), style="bold" if node.up else f"bold {_BAD}")
        for line in tables.node_lines(node):
            yield Text(f"  {line}", no_wrap=True, overflow="ellipsis")
        yield from _table(tables.models(node), width)
    yield from _table(tables.requests(snapshot), width)


def _table(table: Table, width: int) -> Iterator[RenderableType]:
    if not table.rows:
        return
    drawn = RichTable(box=None, header_style="dim", padding=(0, _BETWEEN, 0, 0))
    columns = [(column, cells) for column, *cells in zip(table.columns, *table.rows, strict=True)]
    widths = [max(map(len, (column, *cells))) for column, cells in columns]
    # In a narrow terminal the last column gives way; it holds what matters least.
    room = width - _INDENT - sum(needed + _BETWEEN for needed in widths[:-1])
    if room < min(_LAST_CHARACTERS, widths[-1]):
        del columns[-1], widths[-1]
    for (column, _), needed in zip(columns, widths, strict=True):
        drawn.add_column(
            column,
            justify="right" if column in table.numeric else "left",
            min_width=None if column == table.columns[-1] else needed,
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in table.rows:
        drawn.add_row(*map(Text, row[: len(columns)]))  # rich would read [red] as markup
    yield from (Text(), Text(table.title, style="dim"), Padding(drawn, (0, 0, 0, _INDENT)))
