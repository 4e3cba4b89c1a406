"""The exporter is stopped for a while with SIGSTOP."""

import signal
import time
from pathlib import Path
from typing import Final

from tests.chaos.ground import NODE, RATE, Ground
from tests.chaos.processes import Emitter
from tests.chaos.proof import equation_rows, log_row
from tests.chaos.rows import Row
from tests.chaos.watch import Watch
from tests.processes import wait_for

CATCH_UP_SECONDS: Final = 5.0
GAP_SECONDS: Final = 0.05
"""Time of one token: a pause that no reader of an answer notices."""
_CALM_SECONDS: Final = 3.0


def exporter_stopped(directory: Path, seconds: float = 30.0) -> list[Row]:
    """Stop the exporter with SIGSTOP for a while and resume it."""
    with Ground(directory) as ground, Watch(ground.port) as watch:
        ground.start_exporter()
        emitter = ground.emitter()
        time.sleep(_CALM_SECONDS)
        stopped = time.monotonic()
        ground.exporter.send(signal.SIGSTOP)
        time.sleep(seconds)
        ground.exporter.send(signal.SIGCONT)
        continued = time.monotonic()
        caught_up = _seconds_until_caught_up(ground, emitter)
        time.sleep(_CALM_SECONDS)
        assert emitter.end() == 0
        return [
            _gap_row(emitter, stopped, continued),
            Row(
                f"caught up within {CATCH_UP_SECONDS:g} s",
                f"{caught_up:.2f} s after {seconds:g} s at {RATE:,.0f} events/s",
                caught_up <= CATCH_UP_SECONDS,
            ),
            _pause_row(ground),
            *equation_rows(ground, emitter.truth()),
            watch.row(),
            log_row(ground),
        ]


def _gap_row(emitter: Emitter, stopped: float, continued: float) -> Row:
    """Compare how evenly events were emitted before, during and after the pause."""
    seconds = emitter.seconds()
    before = [s["longest_gap_seconds"] for s in seconds if s["at"] < stopped]
    during = [s["longest_gap_seconds"] for s in seconds if stopped + 1 < s["at"] < continued]
    after = [s["longest_gap_seconds"] for s in seconds if s["at"] > continued]
    allowed = max(before) + GAP_SECONDS
    measured = ", ".join(
        f"{when} {max(gaps) * 1000:.0f} ms"
        for when, gaps in (("before", before), ("during", during), ("after", after))
    )
    return Row(
        f"longest gap between two emits grows by at most {GAP_SECONDS * 1000:.0f} ms",
        measured,
        max(*during, *after) <= allowed,
    )


def _seconds_until_caught_up(ground: Ground, emitter: Emitter) -> float:
    """Return how long it takes until at most one second of events is not yet counted."""
    continued = time.monotonic()
    wait_for(lambda: _behind(ground, emitter) < RATE, 60)
    return time.monotonic() - continued


def _behind(ground: Ground, emitter: Emitter) -> float:
    truth = emitter.truth()
    return truth.emitted - truth.dropped.total() - ground.applied_kinds(NODE).total()


def _pause_row(ground: Ground) -> Row:
    """Look in the log, because a wrong conclusion may be corrected before a scrape shows it."""
    found = ground.exporter_log.read_text().count(f"node {NODE} is gone")
    return Row(
        "its own pause does not count as silence of the node", f"said gone {found}", found == 0
    )
