"""Estimates from the requests of the last while when a refused caller had better try again."""

import math
from typing import Final

_LONGEST_RETRY_SECONDS: Final = 600
_NEWEST_SHARE: Final = 0.2
"""The newest request's weight in the average service time. A guess that follows a change of load
within about ten requests."""


class ServiceTime:
    """How long a model takes for a request, on average."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def note(self, seconds: float) -> None:
        """Take in the time that a request took in its slot."""
        before = self._seconds or seconds
        self._seconds = before + _NEWEST_SHARE * (seconds - before)

    def retry_after_seconds(self, waiting: int, slots: int) -> int:
        """Return when a retry is worthwhile: once half of the waiting requests are served."""
        rounds = waiting / max(1, slots) + 1
        return max(1, min(_LONGEST_RETRY_SECONDS, math.ceil(self._seconds * rounds / 2)))
