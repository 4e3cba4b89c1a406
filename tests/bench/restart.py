"""Measures how long an exporter takes to start on the journal of an earlier one.

Cases: a log of a million events, logs at the size at which they are replaced, and a snapshot of
families at their limit of series.
"""

import os
import re
import shutil
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from exporter.ingest.batches import Accepted, Ingest, decode_batch
from exporter.journal.journal import Journal
from exporter.journal.snapshot import freeze
from exporter.journal.snapshot import pack as pack_snapshot
from exporter.journal.store import ROTATE_BYTES
from exporter.metrics.state import State
from exporter.settings import ExporterSettings
from shared.events.api import HttpFinished
from shared.events.event import Event
from shared.events.system import EventLoopLagged
from tests.bench.load import mixed_events, pack
from tests.bench.processes import run_exporter
from tests.bench.scrape import scrape
from tests.bench.table import Row

_ROUNDS: Final = 3
_BUSY_EVENTS: Final = 200
"""Events of a batch: 1,000 events a second, sent every 0.2 s."""
_IDLE_EVENTS: Final = 2
"""Events of an idle batch, which has only samples of the loop's lag, ten a second."""
_ENDLESS: Final = 2**40
_AIM: Final = "<= 2 s"

_RECORD: Final = struct.Struct("<Bd")
"""The prefix that `exporter.journal.changes` adds to a batch: the record's kind and the Unix time.
"""
_BATCH: Final = 1
_RECOVERED: Final = re.compile(
    rb"^distributed_llm_exporter_recovered_events_total (\S+)", re.MULTILINE
)

Fill = Callable[[Journal], int]
"""Fills a new journal and returns the number of events in its log."""


class Left(NamedTuple):
    """The journal of an earlier exporter."""

    what: str
    directory: Path
    events: int

    @property
    def bytes_used(self) -> int:
        """The size of all its files in bytes."""
        return sum(path.stat().st_size for path in self.directory.iterdir())


class Start(NamedTuple):
    """One start: its duration, and the CPU time in it."""

    seconds: float
    cpu_seconds: float


def measure() -> list[Row]:
    """Compare each start with one on an empty directory, which is mostly the imports of Python."""
    with tempfile.TemporaryDirectory() as name, _byte_code_in(Path(name) / "byte-code"):
        left = [_leave(Path(name), what, fill) for what, fill in _fills().items()]
        _start(left[0])  # writes the byte code
        rounds = [[_start(one) for one in left] for _ in range(_ROUNDS)]
        starts = [_median(column) for column in zip(*rounds, strict=True)]
        return [_row(one, start, starts[0]) for one, start in zip(left, starts, strict=True)]


def _fills() -> dict[str, Fill]:
    mixed, idle = mixed_events(), [EventLoopLagged(0.002)]
    busy_rotated = partial(_fill_log, mixed, _BUSY_EVENTS, _ENDLESS, ROTATE_BYTES)
    idle_rotated = partial(_fill_log, idle, _IDLE_EVENTS, _ENDLESS, ROTATE_BYTES)
    return {
        "an empty directory": lambda _: 0,
        "a million events": partial(_fill_log, mixed, _BUSY_EVENTS, 1_000_000, _ENDLESS),
        "the longest log, of a busy node": busy_rotated,
        "the longest log, of an idle node": idle_rotated,
        "a snapshot of 10,000 routes": _fill_snapshot,
    }


def _leave(parent: Path, what: str, fill: Fill) -> Left:
    directory = parent / what.replace(" ", "-")
    with Journal.open(directory) as journal:
        for _ in journal.recover()[1]:
            raise RuntimeError(f"{directory} is not empty")
        journal.recovered()
        return Left(what, directory, fill(journal))


def _fill_log(
    events: Sequence[Event], batch_events: int, count: int, limit_bytes: int, journal: Journal
) -> int:
    """Append batches until there are enough events, or the log has its greatest length."""
    batches = pack(events, batch_events, count // batch_events)
    for number, batch in enumerate(batches):
        if journal.size_bytes + len(batch) >= limit_bytes:
            return number * batch_events
        journal.append(_RECORD.pack(_BATCH, time.time()) + batch)
    return count


def _fill_snapshot(journal: Journal) -> int:
    """Write a snapshot of a counter and a histogram that are at their limit of series."""
    budget = ExporterSettings.series_budget
    ingest = Ingest(State(budget), ExporterSettings.node_timeout_seconds)
    routes = [HttpFinished(f"/route/{route}", "GET", 200, 0.1) for route in range(budget)]
    for batch in pack(routes, _BUSY_EVENTS, budget // _BUSY_EVENTS):
        accepted = decode_batch(batch)
        assert isinstance(accepted, Accepted)
        ingest.count(accepted, None, time.time())
    journal.rotate(pack_snapshot(freeze(ingest.state)))
    return 0


def _start(left: Left) -> Start:
    """Start an exporter on a copy of the journal and check that it recovered every event."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "state"
        shutil.copytree(left.directory, directory)
        began = time.perf_counter()
        with run_exporter(directory) as exporter:
            start = Start(time.perf_counter() - began, exporter.cpu_seconds())
            found = _RECOVERED.search(scrape(exporter).body)
    if found is None or float(found[1]) != left.events:
        raise RuntimeError(f"{left.what}: {left.events} events were left, recovered: {found}")
    return start


def _median(starts: Sequence[Start]) -> Start:
    return Start(
        statistics.median(start.seconds for start in starts),
        statistics.median(start.cpu_seconds for start in starts),
    )


def _row(left: Left, start: Start, empty: Start) -> Row:
    size = f"{left.events:,} events, {left.bytes_used / 2**20:.1f} MiB"
    return Row(
        f"a start on {left.what} ({size})",
        f"{start.seconds:.2f} s, {start.cpu_seconds:.2f} s of CPU",
        f"{empty.seconds:.2f} s, {empty.cpu_seconds:.2f} s of CPU",
        f"{start.seconds / empty.seconds:.1f}",
        _AIM,
    )


@contextmanager
def _byte_code_in(directory: Path) -> Iterator[None]:
    """Let processes cache Python's byte code there, as an installed exporter does."""
    before = dict(os.environ)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(directory)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
