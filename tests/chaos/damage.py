"""Damage in the state directory: cut files, flipped bits, a newer format."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from exporter.journal.records import (
    SNAPSHOT_HEADER,
    log_generations,
    pack_snapshot_header,
    snapshot_path,
)
from tests.chaos.ground import NODE, Ground
from tests.chaos.journals import LOAD_SECONDS, QUARANTINED, fill, newest_log, records
from tests.chaos.proof import log_row
from tests.chaos.rows import Row
from tests.processes import wait_for

_SEED: Final = 20240229

Damage = Callable[[Path], None]


def journal_damaged(directory: Path, cuts: int = 8, flips: int = 8) -> list[Row]:
    """Start the exporter on one journal many times, damaged in another way each time."""
    places = random.Random(_SEED)
    with Ground(directory) as ground:
        counted = fill(ground)
        undamaged = directory / "undamaged"
        shutil.copytree(ground.state, undamaged)
        rows = [
            _damage_row(ground, undamaged, counted, "cut", [_cut(places)] * cuts),
            _damage_row(ground, undamaged, counted, "one bit flipped", [_flip(places)] * flips),
            _newer_row(ground, undamaged, counted),
        ]
        return [*rows, log_row(ground)]


def journal_cut_under_load(directory: Path) -> list[Row]:
    """Cut the journal of a killed exporter while its node lives."""
    places = random.Random(_SEED)
    with Ground(directory) as ground:
        ground.start_exporter()
        emitter = ground.emitter()
        time.sleep(LOAD_SECONDS)
        ground.exporter.end(signal.SIGKILL)
        _cut(places)(newest_log(ground.state))
        ground.start_exporter()
        wait_for(lambda: ground.value("node_up", node_id=NODE) == 1)
        assert emitter.end() == 0
        missing = emitter.truth().emitted - ground.applied_kinds(NODE).total()
        lost = ground.value("telemetry_events_lost", node_id=NODE) or 0
        return [
            Row(
                "each event that was cut off counts as lost",
                f"{missing:,} missing, lost {lost:,.0f}",
                missing == lost > 0,
            ),
            log_row(ground),
        ]


def _damage_row(
    ground: Ground, undamaged: Path, counted: int, what: str, damages: list[Damage]
) -> Row:
    found = [_start_damaged(ground, undamaged, damage) for damage in damages]
    noticed = sum(quarantined == 1 for quarantined, _ in found)
    applied = [count for _, count in found]
    return Row(
        f"{what}: starts, serves, and counts what is quarantined, {len(damages)} times",
        f"{len(found)} starts, {noticed} noticed, {min(applied):,} to {max(applied):,} "
        f"of {counted:,} events kept",
        noticed == len(damages) and max(applied) <= counted,
    )


def _newer_row(ground: Ground, undamaged: Path, counted: int) -> Row:
    quarantined, applied = _start_damaged(ground, undamaged, _add_newer_snapshot)
    return Row(
        "a snapshot of a newer version is quarantined, and the journal is used",
        f"{quarantined:.0f} quarantined, {applied:,} of {counted:,} events",
        quarantined == 1 and applied == counted,
    )


def _start_damaged(ground: Ground, undamaged: Path, damage: Damage) -> tuple[float, int]:
    """Start on a damaged copy of the state; return what was quarantined and what was counted."""
    shutil.rmtree(ground.state)
    shutil.copytree(undamaged, ground.state)
    damage(newest_log(ground.state))
    ground.start_exporter()
    quarantined = wait_for(lambda: ground.value(QUARANTINED))
    applied = ground.applied_kinds(NODE).total()
    ground.exporter.end(signal.SIGKILL)
    return quarantined, applied


def _cut(places: random.Random) -> Damage:
    """Return a function that cuts a log inside a record."""

    def cut(log: Path) -> None:
        content = log.read_bytes()
        begin, end = places.choice(list(records(content)))
        log.write_bytes(content[: places.randrange(begin + 1, end)])

    return cut


def _flip(places: random.Random) -> Damage:
    """Return a function that flips one bit of a log."""

    def flip(log: Path) -> None:
        content = bytearray(log.read_bytes())
        content[places.randrange(len(content))] ^= 1 << places.randrange(8)
        log.write_bytes(content)

    return flip


def _add_newer_snapshot(log: Path) -> None:
    """Put a snapshot of an unknown newer format beside a log."""
    magic, version, *rest = SNAPSHOT_HEADER.unpack(pack_snapshot_header(b"future"))
    path = snapshot_path(log.parent, log_generations(log.parent)[-1])
    path.write_bytes(SNAPSHOT_HEADER.pack(magic, version + 1, *rest) + b"future")
