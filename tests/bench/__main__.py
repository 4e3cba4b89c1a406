"""Runs the named benchmarks, by default all of them, and prints their results."""

import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.bench import (
    absence,
    busy,
    emit,
    exposition,
    footprint,
    ingest,
    llama,
    mesh,
    restart,
    stall,
    stream,
    streams,
    tunnel,
)
from tests.bench.table import Row, print_table

BENCHMARKS: Final[dict[str, Callable[[], list[Row]]]] = {
    "emit": emit.measure,
    "stream": stream.measure,
    "streams": streams.measure,
    "llama": llama.measure,
    "busy": busy.measure,
    "stall": stall.measure,
    "ingest": ingest.measure,
    "restart": restart.measure,
    "footprint": footprint.measure,
    "absence": absence.measure,
    "exposition": exposition.measure,
    "tunnel": tunnel.measure,
    "mesh": mesh.measure,
    "mesh-saturated": mesh.measure_saturated,
}


def main(names: Sequence[str]) -> int:
    """Run benchmarks by name; return the exit code, 2 if a name is unknown."""
    if unknown := [name for name in names if name not in BENCHMARKS]:
        known = ", ".join(BENCHMARKS)
        sys.stderr.write(f"bench: no benchmark {', '.join(unknown)}; there are: {known}\n")
        return 2
    print(f"{_machine()}\n", flush=True)
    for name in names or BENCHMARKS:
        print_table(name, BENCHMARKS[name]())
    return 0


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    busy = os.getloadavg()[0]
    return f"{cores} cores of {_processor()}, Python {platform.python_version()}, load {busy:.1f}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
