"""Logs a repeated fault once, then only its count."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

SUM_SECONDS: Final = 60.0
_KINDS: Final = 256
"""Kinds of fault to remember. Peers and clients can cause an unlimited number of kinds."""


@dataclass
class _Fault:
    logged_at: float
    unlogged: int = 0


class Repeats:
    """Keeps repeated faults from filling the log: at most one line a minute for each kind.

    Args:
        log: The logger for the lines.
        clock: Returns seconds from a monotonic clock.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._faults: dict[str, _Fault] = {}

    def note(
        self,
        text: str,
        *arguments: object,
        kind: str = "",
        level: int = logging.WARNING,
        error: BaseException | None = None,
    ) -> None:
        """Log a fault, or only count it if one of its kind was logged less than a minute ago.

        Args:
            text: The line, with `%` placeholders.
            arguments: Values for the placeholders.
            kind: Faults of the same kind share one line; default: the text.
            level: The line's log level.
            error: Logged with its traceback, only the first time.
        """
        kind = kind or text
        now = self._clock()
        fault = self._faults.get(kind)
        if fault is None:
            self._remember(kind, now)
            self._log.log(level, text, *arguments, exc_info=error)
            return
        fault.unlogged += 1
        if now - fault.logged_at >= SUM_SECONDS:
            line = text + " (%d times since the last such line)"
            self._log.log(level, line, *arguments, fault.unlogged)
            self._faults[kind] = _Fault(now)

    def settle(self, kind: str) -> int:
        """Forget a fault that is over. Return how often it occurred without a line."""
        fault = self._faults.pop(kind, None)
        return fault.unlogged if fault else 0

    def _remember(self, kind: str, now: float) -> None:
        if len(self._faults) >= _KINDS:
            del self._faults[next(iter(self._faults))]
        self._faults[kind] = _Fault(now)
