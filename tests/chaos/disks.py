"""Faults of the state directory's disk: full, read-only, deleted, hanging."""

import shutil
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from tests.chaos import mounts
from tests.chaos.ground import NODE, Ground
from tests.chaos.processes import Emitter
from tests.chaos.proof import equation_rows, log_row
from tests.chaos.rows import Row, skipped
from tests.chaos.watch import Watch
from tests.patience import patient
from tests.processes import wait_for

NOTICED_SECONDS: Final = 3.0
NAMED_SECONDS: Final = 7.0
"""Health checks run every 5 s."""
REPAIRED_SECONDS: Final = 5.0
LAG_SECONDS: Final = 1.5
"""A hanging append is given up after half a second; one batch waits for it."""

Break = Callable[[Path], AbstractContextManager[None]]


def full(directory: Path, seconds: float = 10.0) -> list[Row]:
    """Fill the disk of the state directory."""
    if reason := mounts.why_no_mounts():
        return [skipped(reason)]
    with mounts.mounted_memory(directory / "state") as state:
        return _suffer(directory, state, mounts.filled, seconds)


def read_only(directory: Path, seconds: float = 10.0) -> list[Row]:
    """Make the state directory read-only."""
    if reason := mounts.why_no_mounts():
        return [skipped(reason)]
    with mounts.mounted_memory(directory / "state") as state:
        return _suffer(directory, state, mounts.covered_read_only, seconds)


def hanging(directory: Path, seconds: float = 10.0) -> list[Row]:
    """Let every write to the state directory hang."""
    if reason := mounts.why_no_mounts("mkfs.ext4", "fsfreeze"):
        return [skipped(reason)]
    with mounts.mounted_disk(directory / "state") as state:
        return _suffer(directory, state, mounts.frozen, seconds)


def deleted(directory: Path, seconds: float = 10.0) -> list[Row]:
    """Delete the state directory with its content."""
    with Ground(directory) as ground, Watch(ground.port) as watch:
        ground.start_exporter()
        emitter = ground.emitter()
        ground.wait_caught_up(emitter)
        watch.longest_lag_seconds = 0.0
        shutil.rmtree(ground.state)
        began = time.monotonic()
        _seconds_until_durable(ground, 0)
        _seconds_until_durable(ground, 1)
        mended = time.monotonic() - began
        time.sleep(seconds)
        return [
            Row(
                f"recreated and durable within {REPAIRED_SECONDS:g} s",
                f"{mended:.1f} s",
                mended <= patient(REPAIRED_SECONDS),
            ),
            _lag_row(watch.longest_lag_seconds),
            *_outlive(ground, emitter),
            watch.row(),
            log_row(ground),
        ]


def full_at_start(directory: Path) -> list[Row]:
    """Kill the exporter while its state directory is full, and restart it."""
    return _start_broken(directory, mounts.filled)


def read_only_at_start(directory: Path) -> list[Row]:
    """Kill and restart the exporter while its state directory is read-only."""
    return _start_broken(directory, mounts.read_only)


def _suffer(directory: Path, state: Path, broken: Break, seconds: float) -> list[Row]:
    """Break the state directory under load, repair it, and kill the exporter."""
    with Ground(directory, state) as ground, Watch(ground.port) as watch:
        ground.start_exporter()
        emitter = ground.emitter()
        ground.wait_caught_up(emitter)
        watch.longest_lag_seconds = 0.0
        with broken(state):
            noticed = _seconds_until_durable(ground, 0)
            named = wait_for(lambda: _journal_reason(ground))
            time.sleep(seconds)
            still = ground.value("exporter_durable") == 0
            lag = watch.longest_lag_seconds
        mended = _seconds_until_durable(ground, 1)
        return [
            Row(
                f"durable 0 within {NOTICED_SECONDS:g} s and until the repair",
                f"after {noticed:.1f} s, {'for all' if still else 'not all'} of {seconds:g} s",
                noticed <= patient(NOTICED_SECONDS) and still,
            ),
            Row("/health names it", named, bool(named)),
            _lag_row(lag),
            Row(
                f"durable 1 again within {REPAIRED_SECONDS:g} s of the repair",
                f"{mended:.1f} s",
                mended <= patient(REPAIRED_SECONDS),
            ),
            *_outlive(ground, emitter),
            watch.row(),
            log_row(ground),
        ]


def _start_broken(directory: Path, broken: Break) -> list[Row]:
    """Start the exporter in a broken directory and check that the old counts are there."""
    if reason := mounts.why_no_mounts():
        return [skipped(reason)]
    with mounts.mounted_memory(directory / "state") as state, Ground(directory, state) as ground:
        ground.start_exporter()
        emitter = ground.emitter()
        ground.wait_caught_up(emitter)
        assert emitter.end() == 0
        before = ground.applied_kinds(NODE).total()
        ground.exporter.end(signal.SIGKILL)
        with broken(state):
            ground.start_exporter()
            during = ground.applied_kinds(NODE).total()
        mended = _seconds_until_durable(ground, 1)
        ground.restart_exporter()
        after = ground.applied_kinds(NODE).total()
        return [
            Row(
                "it starts with the same counters",
                f"{before:,} before the kill, {during:,} after",
                before == during > 0,
            ),
            Row(
                f"durable 1 again within {REPAIRED_SECONDS:g} s of the repair",
                f"{mended:.1f} s",
                mended <= patient(REPAIRED_SECONDS),
            ),
            Row("... and again after a kill", f"{after:,}", after == before),
            log_row(ground),
        ]


def _outlive(ground: Ground, emitter: Emitter) -> list[Row]:
    """Kill the exporter after the repair and check that no counter has changed."""
    ground.restart_exporter()
    ground.wait_caught_up(emitter)
    assert emitter.end() == 0
    return equation_rows(ground, emitter.truth())


def _seconds_until_durable(ground: Ground, durable: int) -> float:
    began = time.monotonic()
    wait_for(lambda: ground.value("exporter_durable") == durable, 60)
    return time.monotonic() - began


def _journal_reason(ground: Ground) -> str:
    reasons: list[str] = ground.health().get("reasons", [])
    return next((reason for reason in reasons if reason.startswith("journal:")), "")


def _lag_row(lag_seconds: float) -> Row:
    return Row(
        f"the node never waits: event lag below {LAG_SECONDS:g} s",
        f"at most {lag_seconds:.2f} s",
        lag_seconds < patient(LAG_SECONDS),
    )
