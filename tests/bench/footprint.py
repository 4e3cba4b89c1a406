"""Measures the memory and CPU that telemetry costs a machine at a steady load.

Shares are of one core. The node's side runs alone in a process, beside another process without
telemetry: the difference is its cost, whatever other load the machine has.
"""

import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple

from shared import wire
from shared.events.event import Event
from shared.events.mesh import PeerAnswered
from tests.bench import paced_node
from tests.bench.load import mixed_events, pack, send
from tests.bench.processes import Service, run_exporter, run_module
from tests.bench.scrape import scrape
from tests.bench.table import Row

_SECONDS: Final = 10.0
_ROUNDS: Final = 2
_PEERS: Final = 37
"""Each has 17 series; with the series of every node, about a thousand."""
_SCRAPES: Final = 20


class Shares(NamedTuple):
    """CPU cost of telemetry on both sides during one load, as shares of a core."""

    node: float
    exporter: float


def measure() -> list[Row]:
    """Measure the exporter's memory, then the CPU of both sides."""
    with tempfile.TemporaryDirectory() as name, run_exporter(Path(name)) as exporter:
        return [
            *_measure_memory(exporter, Path(name)),
            *_measure_shares(exporter, Path(name) / wire.SOCKET_NAME),
        ]


def _measure_memory(exporter: Service, runtime_dir: Path) -> Iterator[Row]:
    began_bytes = exporter.process.memory_info().rss
    happened: list[Event] = mixed_events()
    happened += [PeerAnswered(f"peer-{peer}", "survey", 0.1) for peer in range(_PEERS)]
    send(runtime_dir, pack(happened, len(happened), 1))
    cpu_began = _cpu_seconds(exporter)
    for _ in range(_SCRAPES):
        series = scrape(exporter).series
    scrape_seconds = (_cpu_seconds(exporter) - cpu_began) / _SCRAPES
    rss_bytes = exporter.process.memory_info().rss
    yield Row(
        f"exporter: resident memory with {series:,} series, against none",
        _megabytes(rss_bytes),
        _megabytes(began_bytes),
        f"{rss_bytes / began_bytes:.2f}",
        "<= 60 MB",
    )
    yield Row("  ... CPU of one scrape of them", f"{scrape_seconds * 1e3:.1f} ms", "", "")


def _measure_shares(exporter: Service, socket_path: Path) -> Iterator[Row]:
    rounds = [
        [_load(exporter, mode, socket_path) for mode in ("beating", "emitting")]
        for _ in range(_ROUNDS)
    ]
    beating, emitting = (_mean(column) for column in zip(*rounds, strict=True))
    load = f"{paced_node.EVENTS_PER_SECOND:,} events/s, against heartbeats alone"
    yield _row(f"exporter: CPU at {load}", emitting.exporter, beating.exporter, 2)
    yield _row(f"node: CPU of telemetry at {load}", emitting.node, beating.node, 1)


def _mean(shares: Sequence[Shares]) -> Shares:
    nodes, exporters = zip(*shares, strict=True)
    return Shares(statistics.mean(nodes), statistics.mean(exporters))


def _row(what: str, ours: float, theirs: float, aim_percent: int) -> Row:
    ratio = f"{ours / theirs:.1f}"
    return Row(what, f"{ours:.2%}", f"{theirs:.2%}", ratio, f"<= {aim_percent} % of a core")


def _load(exporter: Service, mode: paced_node.Mode, socket_path: Path) -> Shares:
    """Run one load with telemetry and one without, side by side."""
    with _run_paced("bare", socket_path) as bare, _run_paced(mode, socket_path) as loaded:
        for process in (bare, loaded):
            _read_line(process)  # it has settled
        before = _cpu_seconds(exporter)
        node_seconds = float(_read_line(loaded))
        exporter_seconds = _cpu_seconds(exporter) - before
        node_seconds -= float(_read_line(bare))
        return Shares(node_seconds / _SECONDS, exporter_seconds / _SECONDS)


def _run_paced(
    mode: paced_node.Mode, socket_path: Path
) -> AbstractContextManager["subprocess.Popen[str]"]:
    return run_module("tests.bench.paced_node", mode, str(_SECONDS), str(socket_path))


def _read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def _cpu_seconds(service: Service) -> float:
    """Return the CPU time of a process, to the nanosecond; `Service` counts hundredths.

    The clock is that of clock_getcpuclockid(3) on Linux, which Python offers only for threads.
    """
    return time.clock_gettime(~service.process.pid << 3 | 2)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
