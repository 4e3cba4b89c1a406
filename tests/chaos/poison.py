"""Faults of one record that crashes the exporter when it is applied."""

from pathlib import Path
from typing import Final

from exporter.journal.records import pack_record
from exporter.journal.recovery import CRASHES
from tests.chaos.ground import NODE, Ground
from tests.chaos.journals import QUARANTINED, fill, newest_log, records
from tests.chaos.rows import Row
from tests.processes import wait_for

_POISON: Final = b"\x01"
"""Too short for the beginning of a record: applying it raises."""
_STARTS: Final = 6


def last(directory: Path) -> list[Row]:
    """Put a record that crashes the exporter at the journal's end, as a live crash leaves it."""
    return _poison(directory, followed=False)


def inside(directory: Path) -> list[Row]:
    """Put a record that crashes the exporter into the journal's middle."""
    return _poison(directory, followed=True)


def _poison(directory: Path, *, followed: bool) -> list[Row]:
    with Ground(directory) as ground:
        counted = fill(ground)
        emitter = ground.emitter()
        _append_poison(newest_log(ground.state), followed=followed)
        starts = next(start for start in range(_STARTS) if _starts(ground))
        ground.wait_caught_up(emitter, counted)
        assert emitter.end() == 0
        quarantined = ground.value(QUARANTINED, kind="poison")
        applied = ground.applied_kinds(NODE).total()
        return [
            Row(
                f"starts after at most {CRASHES} crashed starts",
                f"{starts} crashed",
                0 < starts <= CRASHES,
            ),
            Row(
                'quarantined_total{kind="poison"} 1',
                f"{quarantined:.0f}, kept as {_kept(ground)}",
                quarantined == 1,
            ),
            Row(
                "everything else is counted",
                f"{applied:,} of {counted + emitter.truth().emitted:,}",
                applied == counted + emitter.truth().emitted,
            ),
        ]


def _append_poison(log: Path, *, followed: bool) -> None:
    """Append the record, followed by an older record that must not be counted again."""
    content = log.read_bytes()
    begin, end = next(records(content))
    with log.open("ab") as file:
        file.write(pack_record(_POISON) + (content[begin:end] if followed else b""))


def _starts(ground: Ground) -> bool:
    """Start the exporter and return whether it came far enough to answer."""
    exporter = ground.begin_exporter()
    return bool(wait_for(lambda: ground.get("/livez") or not exporter.is_running)) and (
        exporter.is_running
    )


def _kept(ground: Ground) -> str:
    return ", ".join(path.name for path in (ground.state / "quarantine").iterdir())
