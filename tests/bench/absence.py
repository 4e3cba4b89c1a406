"""Whether a request takes longer when the exporter hangs, or is not there at all.

One client asks one node over one connection, in blocks that take turns: with the exporter running,
stopped by SIGSTOP and ended. The percentiles are the median of those of the blocks, so that one
hiccup of the machine is not the 99th percentile of a thousand requests; those of all a state's
requests together stand beside them.
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
"""Each has two blocks in every state."""
_BLOCK_REQUESTS: Final = 100
_WARM_REQUESTS: Final = 50
_SETTLE_SECONDS: Final = 1.2
"""The carrier has found the exporter again, and what had gathered is counted."""
_TIMEOUT_SECONDS: Final = 30.0
_AIM: Final = "<= 1.05"

_REQUEST: Final = json.dumps(
    {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0, "seed": 1}
)
_HEADERS: Final = {"Content-Type": "application/json"}

Blocks = list[list[float]]
"""Of each block the seconds of its requests."""


def measure() -> list[Row]:
    """Compare the exporter stopped, and none, with it running."""
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
    """Asks a node one request after the other and keeps the seconds, by the exporter's state."""

    def __init__(self, node: Service) -> None:
        self._connection = http.client.HTTPConnection(
            node.host, node.port, timeout=_TIMEOUT_SECONDS
        )
        self.blocks: defaultdict[str, Blocks] = defaultdict(list)

    def measure_round(self, directory: Path) -> None:
        """Ask in each state of the exporter, in an order that a steady drift does not favour."""
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
        """Give the seconds that each of so many requests took."""
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
    """Stop the exporter with SIGSTOP for as long as the block runs."""
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
    yield _row("  ... 99th percentile of all blocks together", ours, theirs)


def _percentile(waits: Sequence[float], share: float) -> float:
    return sorted(waits)[math.ceil(share * len(waits)) - 1]


def _row(what: str, ours: float, theirs: float, aim: str = "") -> Row:
    return Row(what, _milliseconds(ours), _milliseconds(theirs), f"{ours / theirs:.3f}", aim)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"
