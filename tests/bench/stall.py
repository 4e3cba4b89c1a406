"""Measures how long an event loop is blocked while 10,000 series are rendered.

The exporter renders them, scraped without a pause. It is compared with a run without scrapes, and
with prometheus_client rendering in the probed loop itself.
"""

import json
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pynng

from node.telemetry.outbox import Outbox
from shared import wire
from shared.events.mesh import PeerAnswered
from tests.bench.processes import Service, run_exporter, run_module, run_node
from tests.bench.random_model import random_model
from tests.bench.scrape import Scrape, scrape
from tests.bench.table import Row

_PEERS: Final = 589
"""Each is a histogram of 14 buckets, 17 series: 10,013 in all."""
_ROUTES: Final = 556
"""For prometheus_client: each is a counter and a histogram of 14 buckets, 18 series."""
_ROUNDS: Final = 4
_PROBE_SECONDS: Final = 2.5
_PROBE_END_SECONDS: Final = 30.0
_SEND_MILLISECONDS: Final = 5000
_LATE_SECONDS: Final = "0.01"
"""A bucket bound of the node's own histogram of its loop lag."""


class Waits(NamedTuple):
    """What one probe measured."""

    p99_seconds: float
    longest_seconds: float


def measure() -> list[Row]:
    """Compare the lateness of a bare loop, the node's responses and the node's own samples."""
    with (
        tempfile.TemporaryDirectory() as name,
        run_exporter(Path(name)) as exporter,
        run_node(Path(name), random_model(), threads=1) as node,
    ):
        _fill(Path(name) / wire.SOCKET_NAME)
        return [*_Run(exporter, node).measure()]


def _fill(path: Path) -> None:
    """Send the exporter the series of a second node."""
    outbox = Outbox("filler", "session", 0.0)
    for peer in range(_PEERS):
        outbox.emit(PeerAnswered(f"peer-{peer}", "survey", 0.1))
    with pynng.Req0(send_timeout=_SEND_MILLISECONDS, recv_timeout=_SEND_MILLISECONDS) as socket:
        socket.dial(f"ipc://{path}", block=True)
        while not outbox.empty:
            socket.send(outbox.next_batch(0.0))
            socket.recv()
            outbox.acknowledge()


class _Run:
    """Run all probes in turn for some rounds, so that noise affects all of them alike."""

    def __init__(self, exporter: Service, node: Service) -> None:
        self._exporter = exporter
        seconds = str(_PROBE_SECONDS)
        self._loop = ("tests.bench.loop_probe", seconds)
        self._answers = ("tests.bench.http_probe", seconds, node.host, str(node.port))
        self._rendering = ("tests.bench.loop_rendering", seconds, str(_ROUTES))
        self._waits: dict[tuple[tuple[str, ...], bool], list[Waits]] = defaultdict(list)
        self._lags: dict[bool, Counter[str]] = defaultdict(Counter)
        self._scrapes: list[Scrape] = []

    def measure(self) -> Iterator[Row]:
        """Probe, then compare."""
        for _ in range(_ROUNDS):
            for scraped in (False, True):
                self._probe(self._loop, scraped=scraped)
                self._probe(self._answers, scraped=scraped)
            self._probe(self._rendering, scraped=False)
        yield self._scrape_row()
        yield from self._against_idle("a loop while the exporter renders", self._loop)
        rendering, idle = self._waits[self._rendering, False], self._waits[self._loop, False]
        yield from _compare("a loop that renders by itself, against idle", rendering, idle, "")
        yield from self._against_idle(
            "responses of the node while the exporter renders", self._answers
        )
        yield self._lag_row()

    def _against_idle(self, what: str, probe: tuple[str, ...]) -> Iterator[Row]:
        scraped, idle = (self._waits[probe, key] for key in (True, False))
        yield from _compare(f"{what}, against idle", scraped, idle, "about 1")

    def _probe(self, probe: tuple[str, ...], *, scraped: bool) -> None:
        before = scrape(self._exporter).lag_counts
        with run_module(*probe) as process:
            while scraped and process.poll() is None:
                self._scrapes.append(scrape(self._exporter))
            written, _ = process.communicate(timeout=_PROBE_SECONDS + _PROBE_END_SECONDS)
        self._waits[probe, scraped].append(Waits(**json.loads(written)))
        if probe != self._rendering:
            self._lags[scraped].update(scrape(self._exporter).lag_counts)
            self._lags[scraped].subtract(before)

    def _scrape_row(self) -> Row:
        seconds = statistics.median(one.seconds for one in self._scrapes)
        series = self._scrapes[-1].series
        return Row(f"a scrape of {series:,} series", _milliseconds(seconds), "", "")

    def _lag_row(self) -> Row:
        scraped, idle = (self._lags[key] for key in (True, False))
        return Row(
            f"the node's own loop lag past {_LATE_SECONDS} s, against idle",
            _late(scraped),
            _late(idle),
            "",
            "the same",
        )


def _compare(what: str, ours: list[Waits], idle: list[Waits], aim: str) -> Iterator[Row]:
    for which, name in (
        ("p99_seconds", "99th percentile"),
        ("longest_seconds", f"longest of {_PROBE_SECONDS} s"),
    ):
        # The median over the rounds, so that one hiccup of the machine does not decide.
        measured, against = (
            statistics.median(getattr(waits, which) for waits in side) for side in (ours, idle)
        )
        ratio = f"{measured / against:.1f}"
        yield Row(f"{what}: {name}", _milliseconds(measured), _milliseconds(against), ratio, aim)


def _late(counts: Counter[str]) -> str:
    return f"{counts['+Inf'] - counts[_LATE_SECONDS]:.0f} of {counts['+Inf']:.0f}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"
