"""Processes are ended with `kill -9`: the exporter, the node, both."""

import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.chaos.ground import NODE, RATE, Ground
from tests.chaos.proof import equation_rows, log_row, prometheus_rows
from tests.chaos.rows import Row, skipped
from tests.chaos.watch import Watch
from tests.patience import factor
from tests.processes import wait_for
from tests.prometheus import prometheus

FLUSH_SECONDS: Final = 0.2
EXCHANGE_SECONDS: Final = 0.05
"""A guess of the longest time of one batch and its reply."""
DOWN_SECONDS: Final = 3.0
_SPARE: Final = 1.02
"""The emitter aims slightly above the promised rate."""
_NO_PROMETHEUS: Final = skipped("prometheus is not on PATH (Debian: apt-get install prometheus)")
_SEED: Final = 20240229
_LIFE_SECONDS: Final = (0.1, 2.0)
"""Lifetime of an exporter from its start, which takes part of that time."""


def exporter_killed(directory: Path, kills: int = 50, *, with_prometheus: bool = True) -> list[Row]:
    """Kill the exporter many times at random moments under load."""
    with Ground(directory) as ground, Watch(ground.port) as watch:
        ground.start_exporter()
        with _prometheus(ground, wanted=with_prometheus) as url:
            emitter = ground.emitter(NODE, RATE * _SPARE)
            began = time.monotonic()
            _kill_exporter(ground, kills)
            ground.wait_caught_up(emitter)
            rate = emitter.truth().emitted / (time.monotonic() - began)
            assert emitter.end() == 0
            truth = emitter.truth()
            return [
                Row(
                    f"killed {kills} times under {RATE:,.0f} events/s",
                    f"{kills} kills at {rate:,.0f} events/s",
                    rate >= RATE / factor(),
                ),
                *equation_rows(ground, truth),
                watch.row(),
                *(prometheus_rows(url, truth) if url else []),
                *([_NO_PROMETHEUS] if with_prometheus and not url else []),
                log_row(ground),
            ]


def node_killed(directory: Path, kills: int = 20, looks: int = 4) -> list[Row]:
    """Kill the node many times and restart it with its name; check before each of `looks` kills."""
    moments = random.Random(_SEED)
    lost_seconds: list[float] = []
    down_seconds: list[float] = []
    emitted = 0
    with Ground(directory) as ground, Watch(ground.port) as watch:
        ground.start_exporter()
        for kill in range(kills):
            before = ground.applied_kinds(NODE).total()
            emitter = ground.emitter()
            _wait_counting(ground, before)
            time.sleep(moments.uniform(0.3, 1.0))
            emitter.end(signal.SIGKILL)
            if kill < looks:
                down_seconds.append(_seconds_until_down(ground))
            truth = emitter.truth()
            emitted += truth.emitted
            lost_seconds.append((truth.emitted - _settled(ground) + before) / RATE)
        return [
            _loss_row(kills, lost_seconds),
            Row(
                f"node_up 0 within {DOWN_SECONDS:g} s of the kill",
                f"at most {max(down_seconds):.2f} s in {len(down_seconds)} kills",
                max(down_seconds) <= DOWN_SECONDS,
            ),
            _knowledge_row(ground, emitted),
            watch.row(),
            log_row(ground),
        ]


def both_killed(
    directory: Path, kills: int = 10, exchange_seconds: float = EXCHANGE_SECONDS
) -> list[Row]:
    """Kill node and exporter at once, many times, and restart both."""
    moments = random.Random(_SEED)
    lost_seconds: list[float] = []
    emitted = 0
    with Ground(directory) as ground, Watch(ground.port) as watch:
        ground.start_exporter()
        for _ in range(kills):
            before = ground.applied_kinds(NODE).total()
            emitter = ground.emitter()
            _wait_counting(ground, before)
            time.sleep(moments.uniform(0.3, 1.0))
            emitter.send(signal.SIGKILL)
            ground.exporter.end(signal.SIGKILL)
            emitter.process.wait()
            ground.start_exporter()
            truth = emitter.truth()
            emitted += truth.emitted
            lost_seconds.append((truth.emitted - _settled(ground) + before) / RATE)
        return [
            _loss_row(kills, lost_seconds, exchange_seconds),
            _knowledge_row(ground, emitted),
            watch.row(),
            log_row(ground),
        ]


def _kill_exporter(ground: Ground, kills: int) -> None:
    """Kill it at a random moment, from its start until long into its work."""
    moments = random.Random(_SEED)
    for _ in range(kills):
        time.sleep(moments.uniform(*_LIFE_SECONDS))
        ground.exporter.end(signal.SIGKILL)
        ground.begin_exporter()
    ground.wait_ready()


def _wait_counting(ground: Ground, before: int) -> None:
    wait_for(lambda: ground.applied_kinds(NODE).total() > before)


def _seconds_until_down(ground: Ground) -> float:
    killed = time.monotonic()
    wait_for(lambda: ground.value("node_up", node_id=NODE) == 0)
    return time.monotonic() - killed


def _settled(ground: Ground) -> int:
    """Return the counts once a batch that was on its way has arrived."""
    time.sleep(FLUSH_SECONDS)
    return ground.applied_kinds(NODE).total()


def _loss_row(
    kills: int, lost_seconds: list[float], exchange_seconds: float = EXCHANGE_SECONDS
) -> Row:
    bound = FLUSH_SECONDS + exchange_seconds
    return Row(
        f"{kills} kills, each loses at most a flush interval and an exchange ({bound:g} s)",
        f"at most {max(lost_seconds):.3f} s of events, {min(lost_seconds):.3f} s at least",
        0 <= min(lost_seconds) <= max(lost_seconds) <= bound,
    )


def _knowledge_row(ground: Ground, emitted: int) -> Row:
    known = ground.value("telemetry_events_emitted_total", node_id=NODE) or 0
    lost = ground.value("telemetry_events_lost", node_id=NODE)
    applied = ground.applied_kinds(NODE).total()
    return Row(
        "what reached the exporter is counted, each once",
        f"{emitted:,} emitted, {known:,.0f} reported, {applied:,} applied, lost {lost}",
        known == applied <= emitted and lost == 0,
    )


@contextmanager
def _prometheus(ground: Ground, *, wanted: bool) -> Iterator[str]:
    if not wanted or shutil.which("prometheus") is None:
        yield ""
        return
    with prometheus(ground.directory / "prometheus", f"127.0.0.1:{ground.port}") as url:
        yield url
