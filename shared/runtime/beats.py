"""Periodic tasks wake together.

A turn of the event loop costs more than what most periodic tasks do in it. Tasks that sleep to the
beats of one clock share a turn, while those that sleep for a time each take one of their own.
"""

import math
from typing import Final

import trio

_ROUNDING: Final = 1e-6
"""A part of a period, far above the rounding of the clock and far below a moment that matters."""


def next_beat(now: float, seconds: float) -> float:
    """Return the first multiple of a period after a moment on Trio's clock, both in seconds.

    Trio's clock begins at a random moment in each process, so processes do not wake together.
    """
    return (math.floor(now / seconds + _ROUNDING) + 1) * seconds


async def sleep_to_beat(seconds: float) -> None:
    """Sleep until the next multiple of a period on Trio's clock."""
    await trio.sleep_until(next_beat(trio.current_time(), seconds))
