"""Faults while the journal changes files, and clean ends of the exporter."""

import random
import signal
import time
from pathlib import Path
from typing import Final

from exporter.journal.records import log_generations
from tests.chaos.ground import Ground
from tests.chaos.proof import equation_rows, log_row
from tests.chaos.rows import Row
from tests.chaos.watch import Watch

_SEED: Final = 20240229
_NODES: Final = ("node1", "node2", "node3", "node4")
_NODE_RATE: Final = 1000.0
"""Events per second of each node. One node alone may send only 256 KiB per flush interval."""
_PADDING: Final = 15_000
"""Characters of the oversize events, which fill a log in a few seconds."""
_ROTATION_SECONDS: Final = 0.005
"""A guess of how long the change of files takes."""
_LIFE_SECONDS: Final = 0.5


def killed_rotating(directory: Path, kills: int = 6) -> list[Row]:
    """Kill the exporter when it has begun a new log and the old files still exist."""
    moments = random.Random(_SEED)
    halves = 0
    with Ground(directory) as ground, Watch(ground.port) as watch:
        ground.start_exporter()
        emitters = [ground.emitter(node, _NODE_RATE, f"--padding={_PADDING}") for node in _NODES]
        for _ in range(kills):
            _wait_new_log(ground.state)
            time.sleep(moments.uniform(0, _ROTATION_SECONDS))
            ground.exporter.end(signal.SIGKILL)
            halves += len(log_generations(ground.state)) > 1
            ground.start_exporter()
        proofs: list[Row] = []
        for emitter in emitters:
            ground.wait_caught_up(emitter)
            assert emitter.end() == 0
            proofs += equation_rows(ground, emitter.truth(), emitter.node_id)
        return [
            Row(
                f"killed {kills} times while a snapshot replaces the log",
                f"{halves} kills left both logs",
                halves > 0,
            ),
            *proofs,
            watch.row(),
            log_row(ground),
        ]


def ended_cleanly(directory: Path, ends: int = 10) -> list[Row]:
    """End the exporter with SIGTERM many times under load, and restart it."""
    with Ground(directory) as ground, Watch(ground.port) as watch:
        ground.start_exporter()
        emitter = ground.emitter()
        codes = set()
        for _ in range(ends):
            time.sleep(_LIFE_SECONDS)
            codes.add(ground.exporter.end())
            ground.start_exporter()
        ground.wait_caught_up(emitter)
        assert emitter.end() == 0
        return [
            Row(f"SIGTERM {ends} times: exit code 0", f"codes {codes}", codes == {0}),
            *equation_rows(ground, emitter.truth()),
            watch.row(),
            log_row(ground),
        ]


def _wait_new_log(state: Path) -> None:
    """Wait until there is a new log, polling often enough to catch a short moment."""
    newest = log_generations(state)[-1]
    deadline = time.monotonic() + 60
    while log_generations(state)[-1:] in ([], [newest]):
        assert time.monotonic() < deadline, "no new log"
        time.sleep(0.001)
