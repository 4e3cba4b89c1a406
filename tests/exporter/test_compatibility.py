"""The exporter reads the journals of earlier releases.

`journals/<format>-log` is the log of a real run of node and exporter: three completions of 20
tokens with the demo model. `journals/<format>-snapshot` is the same after a rotation. A new format
adds a recording and keeps these.
"""

import shutil
from pathlib import Path

import pytest
import trio

from exporter.journal.opening import open_store
from exporter.metrics.catalogue.api import HTTP_REQUESTS
from exporter.metrics.catalogue.exporter import QUARANTINED
from exporter.metrics.catalogue.node import NODE_UP
from exporter.metrics.catalogue.requests import FINISHES, LATENCY, REQUESTS, TOKENS_GENERATED
from exporter.metrics.catalogue.telemetry import EMITTED, EVENTS, LOST
from exporter.metrics.cut import Cut, take_cut
from exporter.metrics.state import State

OLD = (REQUESTS, TOKENS_GENERATED, FINISHES, HTTP_REQUESTS, EVENTS, EMITTED)
"""Families that every recording has; families added later start at 0 after a snapshot."""
RECORDINGS = sorted((Path(__file__).parent / "journals").iterdir())


def recovered(recording: Path, directory: Path) -> Cut:
    """Start on a copy of a recording."""
    state = directory / "state"
    shutil.copytree(recording, state)

    async def scenario() -> Cut:
        store = open_store(state, State, 2.5)
        assert store.state.storage.durable
        await store.tick(trio.current_time())
        cut = take_cut(store.state)
        store.close()
        return cut

    return trio.run(scenario)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
def test_recorded_journal_is_recovered(recording: Path, tmp_path: Path) -> None:
    """Every count of a recorded run is recovered, and nothing is quarantined."""
    cut = recovered(recording, tmp_path)
    model = ("recorded", "demo")
    assert cut.numbers[REQUESTS][*model, "ok"] == 3
    assert cut.numbers[TOKENS_GENERATED][model] == 60
    assert cut.numbers[HTTP_REQUESTS]["recorded", "unknown", "GET", "404"] == 1
    assert cut.histograms[LATENCY][*model, "ok"].sum > 0
    assert sum(cut.histograms[LATENCY][*model, "ok"].counts) == 3
    applied = sum(cut.numbers[EVENTS].values())
    assert cut.numbers[EMITTED][("recorded",)] == applied > 200
    assert cut.numbers[LOST][("recorded",)] == 0
    assert sum(cut.numbers[QUARANTINED].values()) == 0
    assert cut.numbers[NODE_UP][("recorded",)] == 0


def test_every_recording_gives_the_same(tmp_path: Path) -> None:
    """A log and its snapshot recover the same state."""
    first, *others = [recovered(one, tmp_path / one.name) for one in RECORDINGS]
    for other in others:
        for family in OLD:
            assert other.numbers[family] == first.numbers[family]
        for labels, histogram in first.histograms[LATENCY].items():
            assert other.histograms[LATENCY][labels].counts == histogram.counts
