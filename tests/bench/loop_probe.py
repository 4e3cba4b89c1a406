"""Measures how late a Trio event loop wakes its tasks; run as a process of its own.

A tick is due each millisecond. Ticks that come due while the loop is blocked count with their own
lateness, so that a long stall weighs as much as it would for waiting tasks.
"""

import json
import math
import sys
from collections.abc import Sequence
from typing import Final

import trio

_TICK_SECONDS: Final = 0.001


async def watch(seconds: float) -> list[float]:
    """Return the lateness of each tick in seconds."""
    lateness: list[float] = []
    due = trio.current_time() + _TICK_SECONDS
    end = due + seconds
    while due < end:
        await trio.sleep_until(due)
        now = trio.current_time()
        while due <= now:
            lateness.append(now - due)
            due += _TICK_SECONDS
    return lateness


def write(waits: Sequence[float]) -> None:
    """Print the 99th percentile and the longest lateness as one JSON object."""
    ordered = sorted(waits)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    print(json.dumps({"p99_seconds": p99, "longest_seconds": ordered[-1]}))


if __name__ == "__main__":
    write(trio.run(watch, float(sys.argv[1])))
