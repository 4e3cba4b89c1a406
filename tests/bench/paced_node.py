"""Runs the telemetry of a node alone in a process, with an outbox, its carrier and a steady load.

It prints a line when it has settled and, after the given time, a line with the CPU seconds of that
time.
"""

import itertools
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Literal

import trio

from node.telemetry.carrier import open_carrier
from node.telemetry.outbox import Outbox
from shared.events.event import Event
from tests.bench.load import mixed_events
from tests.bench.processes import NODE_ID
from tests.guards import strict_guard

Mode = Literal["bare", "beating", "emitting"]
"""Only the loop of the load; with a carrier that sends heartbeats; with all events."""

EVENTS_PER_SECOND: Final = 1000
_STEP_SECONDS: Final = 0.01
_SETTLE_SECONDS: Final = 1.5


async def main(mode: str, seconds: float, socket_path: Path) -> None:
    """Emit for the given time after settling."""
    outbox = Outbox(NODE_ID, mode, trio.current_time())
    emit: Callable[[Event], None] = outbox.emit if mode == "emitting" else lambda _: None
    async with AsyncExitStack() as stack:
        if mode != "bare":
            await stack.enter_async_context(open_carrier(outbox, socket_path, list, strict_guard()))
        await _emit_steadily(emit, _SETTLE_SECONDS)
        print("settled", flush=True)
        began = time.process_time()
        await _emit_steadily(emit, seconds)
        print(time.process_time() - began, flush=True)


async def _emit_steadily(emit: Callable[[Event], None], seconds: float) -> None:
    # The events exist already: the cost of making one belongs to its source, see `emit`.
    coming = itertools.cycle(mixed_events())
    due = trio.current_time()
    for _ in range(round(seconds / _STEP_SECONDS)):
        for event in itertools.islice(coming, round(EVENTS_PER_SECOND * _STEP_SECONDS)):
            emit(event)
        due += _STEP_SECONDS
        await trio.sleep_until(due)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
