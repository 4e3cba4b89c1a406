"""Measures whether requests take longer when the exporter hangs or is gone.

One client sends requests to one node over one connection, in alternating blocks: with the exporter
running, stopped by SIGSTOP, and ended. Each percentile is the median over the blocks of a state, so
that a single hiccup of the machine does not become the 99th percentile of a thousand requests. The
percentiles over all requests of a state are shown as well.
"""

import http.client
import itertools
import json
import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from node.demo import MODEL_PATH
from tests.bench.processes import Service, run_exporter, run_node
from tests.bench.table import Row

_ROUNDS: Final = 6
"""Each round has two blocks per state."""
_BLOCK_REQUESTS: Final = 100
_WARM_REQUESTS: Final = 50
_SETTLE_SECONDS: Final = 1.2
"""Time for the carrier to find the exporter again and send what has gathered."""
_TIMEOUT_SECONDS: Final = 30.0
_AIM: Final = "<= 1.05"

_REQUEST: Final = json.dumps(
    {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0, "seed": 1}
)
_HEADERS: Final = {"Content-Type": "application/json"}

Blocks = list[list[float]]
"""The seconds of each request, by block."""


def measure() -> list[Row]:
    """Compare a stopped exporter, and none, with a running one."""
    with tempfile.TemporaryDirectory() as name, run_node(Path(name), MODEL_PATH, threads=1) as node:
        client = _Client(node)
        client.ask(_WARM_REQUESTS)
        for _ in range(_ROUNDS):
            client.measure_round(Path(name))
        blocks = client.blocks
    return [
        *_compare("the exporter stopped", blocks["stopped"], blocks["running"], _AIM),
        *_compare("no exporter", blocks["absent"], blocks["running"], _AIM),
    ]


class _Client:
    """Sends requests to a node one by one, and records their seconds by state of the exporter."""

    def __init__(self, node: Service) -> None:
        self._connection = http.client.HTTPConnection(
            node.host, node.port, timeout=_TIMEOUT_SECONDS
        )
        self.blocks: defaultdict[str, Blocks] = defaultdict(list)

    def measure_round(self, directory: Path) -> None:
        """Measure each state of the exporter, in an order that a steady drift does not favour."""
        with run_exporter(directory) as exporter:
            time.sleep(_SETTLE_SECONDS)
            self._measure("running")
            with _stopped(exporter):
                self._measure("stopped")
                self._measure("stopped")
            time.sleep(_SETTLE_SECONDS)
            self._measure("running")
        self._measure("absent")
        self._measure("absent")

    def ask(self, count: int) -> list[float]:
        """Return the seconds of each of `count` requests."""
        return [self._ask() for _ in range(count)]

    def _measure(self, state: str) -> None:
        self.blocks[state].append(self.ask(_BLOCK_REQUESTS))

    def _ask(self) -> float:
        began = time.perf_counter()
        self._connection.request("POST", "/v1/completions", _REQUEST, _HEADERS)
        response = self._connection.getresponse()
        response.read()
        if response.status != http.client.OK:
            raise RuntimeError(f"the node answered {response.status}")
        return time.perf_counter() - began


@contextmanager
def _stopped(exporter: Service) -> Iterator[None]:
    """Stop the exporter with SIGSTOP until the block ends."""
    exporter.process.suspend()
    try:
        yield
    finally:
        exporter.process.resume()


def _compare(what: str, blocks: Blocks, running: Blocks, aim: str) -> Iterator[Row]:
    for share, name in ((0.99, "99th percentile"), (0.5, "median")):
        ours, theirs = (
            statistics.median(_percentile(block, share) for block in side)
            for side in (blocks, running)
        )
        yield _row(f"a request with {what}, against running: {name}", ours, theirs, aim)
    ours, theirs = (
        _percentile([*itertools.chain.from_iterable(side)], 0.99) for side in (blocks, running)
    )
    yield _row("  ... 99th percentile of all requests", ours, theirs)


def _percentile(waits: Sequence[float], share: float) -> float:
    return sorted(waits)[math.ceil(share * len(waits)) - 1]


def _row(what: str, ours: float, theirs: float, aim: str = "") -> Row:
    return Row(what, _milliseconds(ours), _milliseconds(theirs), f"{ours / theirs:.3f}", aim)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"
