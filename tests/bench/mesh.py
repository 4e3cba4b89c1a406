"""Measures what the mesh costs each node, how that grows, and what a saturated core does.

All nodes of a measurement share one process and one machine, so that each message costs twice here:
shares of a core include sender and receiver.
"""

import contextlib
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any, Final

from node.engine.shape import even_shape
from node.routing.holders import Holder
from node.routing.plan import make_plan
from tests.bench.processes import run_module
from tests.bench.table import Row

_COUNTS: Final = (5, 10, 25, 50)
_SECONDS: Final = 15.0
_SATURATED_SECONDS: Final = 600.0
_LAYERS: Final = 128
_PLANS: Final = 20


def measure() -> list[Row]:
    """Measure idle meshes of growing size, then the plan."""
    found = {count: _run(count, _SECONDS) for count in _COUNTS}
    return [*_growth_rows(found), _plan_row(max(_COUNTS))]


def measure_saturated() -> list[Row]:
    """Count false deaths while another process uses a whole core for ten minutes."""
    count = max(_COUNTS)
    with _burning():
        found = _run(count, _SATURATED_SECONDS)
    return [
        Row(
            f"mesh of {count}, a core saturated for {_SATURATED_SECONDS:g} s: false deaths",
            f"{found['dead']:.0f}",
            f"{found['suspected']:.0f} suspected",
            "",
            "0",
        ),
        Row("  ... longest answer", f"{found['longest_seconds']:.2f} s", "", ""),
    ]


def _growth_rows(found: dict[int, dict[str, float]]) -> Iterator[Row]:
    least = found[min(found)]
    for count, figures in found.items():
        yield Row(
            f"mesh of {count}: CPU of each idle node",
            f"{figures['cpu_share']:.2%} of a core",
            f"{least['cpu_share']:.2%} of {min(found)}",
            f"{figures['cpu_share'] / least['cpu_share']:.1f}",
            "<= 1 %",
        )
        yield Row(
            "  ... sent by each node",
            f"{figures['sent_bytes'] / 1e3:.1f} kB/s",
            f"{least['sent_bytes'] / 1e3:.1f} kB/s",
            f"{figures['sent_bytes'] / least['sent_bytes']:.1f}",
        )
        yield Row(
            "  ... time until all know each other",
            f"{figures['joined_seconds']:.2f} s",
            f"answers in {figures['median_seconds'] * 1e3:.0f} ms",
            "",
            "<= 2 s for 10" if count == 10 else "",
        )


def _plan_row(count: int) -> Row:
    shape = even_shape(_LAYERS * 2**29, _LAYERS, 2**16, 4096)
    nodes = [
        Holder(f"n{number}", (2000 + 37 * number) * 2**20, 1e9 + 1e7 * (number * 7 % count), 4)
        for number in range(count)
    ]
    seconds = []
    for _ in range(_PLANS):
        began = time.perf_counter()
        plan = make_plan(shape, nodes, 2)
        seconds.append(time.perf_counter() - began)
    words = f"{len(plan.shares)} nodes used, {plan.unserved} layers unserved"
    median = f"{statistics.median(seconds) * 1e3:.1f} ms"
    return Row(f"plan of {_LAYERS} layers over {count} nodes", median, words, "", "< 20 ms")


def _run(count: int, seconds: float) -> dict[str, float]:
    with run_module("tests.bench.mesh_many", str(count), str(seconds)) as process:
        assert process.stdout is not None
        figures: dict[str, Any] = json.loads(process.stdout.readline())
    return figures


@contextlib.contextmanager
def _burning() -> Iterator[None]:
    """Keep a core busy with another process until the block ends."""
    with run_module("tests.bench.mesh_burner"):
        yield
