"""Runs a node or an exporter whose parts can be made to fail: `python -m tests.faulty node …`.

To make a part fail, create a file with its name in the directory that `FAULTS` names. The part
deletes the file and raises an unexpected exception in the middle of its work.
"""

import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

import exporter.main
import node.parts
from exporter.__main__ import main as run_exporter
from node.__main__ import main as run_node
from shared.runtime.guard import Guard

FAULTS = "FAULTS"
_LOOK_SECONDS = 0.01
_BRIEF = ("reaper", "terminal")
"""Parts that work only as process 1 or in a terminal; in tests they run until cancelled."""


class PlantedError(Exception):
    """A fault that no code expects."""


class FaultyGuard(Guard[Any]):
    """A guard whose parts fail on demand."""

    async def __call__(
        self,
        part: Any,
        run: Callable[..., Awaitable[object]],
        *arguments: Any,
        task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run a part as the guard does, until it is made to fail."""

        async def run_until_fault(*given: Any, **named: Any) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_fail_when_told, part)
                await run(*given, **named)
                if part not in _BRIEF:
                    nursery.cancel_scope.cancel()

        await super().__call__(part, run_until_fault, *arguments, task_status=task_status)


async def _fail_when_told(part: str) -> None:
    fault = Path(os.environ[FAULTS], part)
    while not fault.exists():  # noqa: ASYNC110 - a file
        await trio.sleep(_LOOK_SECONDS)
    fault.unlink()
    raise PlantedError(part)


if __name__ == "__main__":
    setattr(node.parts, "Guard", FaultyGuard)  # noqa: B010 - mypy does not let a class be assigned
    setattr(exporter.main, "Guard", FaultyGuard)  # noqa: B010
    program = sys.argv.pop(1)
    {"node": run_node, "exporter": run_exporter}[program]()
