"""Journals to damage, filled by a real exporter."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from exporter.journal.records import LOG_HEADER, RECORD_HEADER, log_generations, log_path
from tests.chaos.ground import NODE, Ground

LOAD_SECONDS: Final = 1.5
QUARANTINED: Final = "exporter_quarantined_total"


def fill(ground: Ground) -> int:
    """Let the exporter count for a while, kill it, and return its counts."""
    ground.start_exporter()
    emitter = ground.emitter()
    time.sleep(LOAD_SECONDS)
    assert emitter.end() == 0
    counted = ground.applied_kinds(NODE).total()
    assert counted == emitter.truth().emitted
    ground.exporter.end(signal.SIGKILL)
    return counted


def newest_log(state: Path) -> Path:
    """Return the current log."""
    return log_path(state, log_generations(state)[-1])


def records(content: bytes) -> Iterator[tuple[int, int]]:
    """Return the boundaries of the records of an undamaged log."""
    at = LOG_HEADER.size
    while at < len(content):
        end = at + RECORD_HEADER.size + RECORD_HEADER.unpack_from(content, at)[0]
        yield at, end
        at = end
