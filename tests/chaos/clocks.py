"""Faults of the wall clock: set back a day while the exporter runs, and across its restart."""

import time
from itertools import pairwise
from pathlib import Path
from typing import Final

from tests.chaos.ground import NODE, Ground
from tests.chaos.proof import equation_rows, log_row
from tests.chaos.rows import Row, skipped
from tests.chaos.watch import Watch
from tests.processes import wait_for

_LIBRARIES: Final = Path("/usr/lib")
_LIBRARY: Final = "**/faketime/libfaketime.so.1"
_NOW: Final = "+0d"
_YESTERDAY: Final = "-1d"
_DAY_SECONDS: Final = 86_400
_LOOKS: Final = 6
_LAST_EVENT: Final = "exporter_last_event_timestamp_seconds"
_MOVING: Final = ("node_up", "exporter_events_total", _LAST_EVENT)


def clock_set_back(directory: Path) -> list[Row]:
    """Set the exporter's clock back a day while it runs, restart it that way, and restore it."""
    library = next(_LIBRARIES.glob(_LIBRARY), None)
    if library is None:
        return [skipped("faketime is not installed (Debian: apt-get install faketime)")]
    clock = directory / "clock"
    clock.write_text(_NOW)
    environment = _environment(library, clock)
    with Ground(directory) as ground, Watch(ground.port) as watch:
        ground.start_exporter(environment)
        emitter = ground.emitter()
        ground.wait_caught_up(emitter)
        clock.write_text(_YESTERDAY)
        rows = [_live_row(ground, "set back while running", _DAY_SECONDS)]
        ground.restart_exporter(environment)
        rows.append(_live_row(ground, "restarted on the day before", _DAY_SECONDS))
        clock.write_text(_NOW)
        rows.append(_live_row(ground, "set right while running", 0))
        assert emitter.end() == 0
        return [
            *rows,
            *equation_rows(ground, emitter.truth()),
            watch.row(),
            Row("no value is negative", f"{len(watch.negative)} were", not watch.negative),
            log_row(ground),
        ]


def _environment(library: Path, clock: Path) -> dict[str, str]:
    """Fake the wall clock only: no system allows setting the monotonic clock."""
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


def _live_row(ground: Ground, when: str, behind_seconds: float) -> Row:
    """Check for a few seconds that everything that should move does."""
    wait_for(lambda: abs(_behind_seconds(ground) - behind_seconds) < _DAY_SECONDS / 2)
    looks = []
    for _ in range(_LOOKS):
        looks.append([ground.value(name, node_id=NODE) or 0 for name in _MOVING])
        time.sleep(1)
    up = all(look[0] == 1 for look in looks)
    moving = all(before[1] < after[1] and before[2] < after[2] for before, after in pairwise(looks))
    return Row(
        f"{when}: node up, counters and times move on",
        f"clock {behind_seconds / 3600:g} h behind, {len(looks)} looks: "
        f"{'up' if up else 'down'}, {'moving' if moving else 'frozen'}",
        up and moving,
    )


def _behind_seconds(ground: Ground) -> float:
    return time.time() - (ground.value(_LAST_EVENT, node_id=NODE) or 0)
