"""Measures how slow the machine is, so that the tests can extend their timeouts.

A test must not fail because other work shares its cores, but a hanging test must still end.
"""

import hashlib
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

_WORK: Final = bytes(4 * 2**20)
_WORK_SECONDS: Final = 0.0025
"""Time to hash `_WORK` on an idle core of a modest machine (2026)."""
_EVERY_SECONDS: Final = 0.25
_REMEMBERED: Final = 20
_MOST: Final = 10.0
"""Timeouts grow to at most this multiple, so that a hanging test fails in the end."""


class Slowness:
    """A running measurement of how late a small piece of work is done.

    Args:
        clock: Seconds of wall clock.
        sleep: Waits for a number of seconds, or longer.
        work: Takes `_WORK_SECONDS` where nothing else runs. It lets go of the interpreter lock, so
            that a busy test does not look like a busy machine.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
        work: Callable[[], object] = lambda: hashlib.sha256(_WORK),
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._work = work
        self._measured: deque[float] = deque([1.0], maxlen=_REMEMBERED)

    def factor(self) -> float:
        """Return how many times slower the machine is than when idle, at least 1."""
        return min(max(1.0, statistics.fmean(self._measured)), _MOST)

    def measure(self) -> None:
        """Sleep, work, and record how late the work was done."""
        due = self._clock() + _EVERY_SECONDS
        self._sleep(_EVERY_SECONDS)
        self._work()
        self._measured.append((self._clock() - due) / _WORK_SECONDS)

    def watch(self) -> None:
        """Measure once, then go on in a thread until the process ends."""
        self.measure()
        threading.Thread(target=self._run, name="slowness", daemon=True).start()

    def _run(self) -> None:
        while True:
            self.measure()


_machine: Final = Slowness()
watch = _machine.watch
factor = _machine.factor


def patient(seconds: float) -> float:
    """Return a timeout for something that takes less than `seconds` on an idle machine."""
    return seconds * factor()


class Allowance:
    """A time limit that runs slower while the machine is slow."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._seen = time.monotonic()

    def is_spent(self) -> bool:
        """Return whether the time is over."""
        now = time.monotonic()
        self._left -= (now - self._seen) / factor()
        self._seen = now
        return self._left < 0
