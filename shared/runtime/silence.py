"""Measures silence only while this process itself is running.

A process may be stopped (SIGSTOP, Ctrl-Z), frozen with its container or suspended with its machine.
When it continues, every deadline has passed, and the processes that it watches were frozen too and
have sent nothing. So time is counted in short steps, each for at most its length.
"""

import math
from collections.abc import Callable
from typing import Final

import trio

_STEP_SECONDS: Final = 1.0
"""An upper bound."""
_LEAST_STEPS: Final = 8
"""A freeze of any length counts as one step."""


async def sleep_awake(seconds: float) -> None:
    """Sleep until this process has been running for this long."""
    await wait_silence(lambda: 0, seconds)


async def wait_silence(sign: Callable[[], object], seconds: float) -> None:
    """Wait until there was no sign of life for `seconds`, or up to one step longer.

    Args:
        sign: Returns a value that changes with each sign of life.
        seconds: Measured in this process's own running time.
    """
    steps = max(_LEAST_STEPS, math.ceil(seconds / _STEP_SECONDS))
    last, silent = sign(), 0
    while silent < steps:
        await trio.sleep(seconds / steps)
        now = sign()
        silent = silent + 1 if now == last else 0
        last = now
