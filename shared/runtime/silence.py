"""Measures silence in the time in which this process itself was running.

A process that was stopped (SIGSTOP, Ctrl-Z), frozen with its container or suspended with its
machine finds every deadline passed when it goes on, and those that it watches, which were frozen
with it, have said nothing. So time is counted in short steps, each for no more than its length.
"""

import math
from collections.abc import Callable
from typing import Final

import trio

_STEP_SECONDS: Final = 1.0
"""At most."""
_LEAST_STEPS: Final = 8
"""A freeze of any length costs one of them."""


async def sleep_awake(seconds: float) -> None:
    """Sleep until this process was running for so long."""
    await wait_silence(lambda: 0, seconds)


async def wait_silence(sign: Callable[[], object], seconds: float) -> None:
    """Wait until there was no sign of life for so long, or up to a step longer.

    Args:
        sign: Returns something that differs after each sign of life.
        seconds: Of this process' own running time.
    """
    steps = max(_LEAST_STEPS, math.ceil(seconds / _STEP_SECONDS))
    last, silent = sign(), 0
    while silent < steps:
        await trio.sleep(seconds / steps)
        now = sign()
        silent = silent + 1 if now == last else 0
        last = now
