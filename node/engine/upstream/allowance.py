"""How many requests a server elsewhere gets at once; no I/O."""

from typing import Final

_PAUSE_SECONDS: Final = (0.5, 30.0)
"""The pause after a first refusal, and the longest; guesses."""


class Allowance:
    """The requests that a server gets at once: fewer after it refused one, more when it answers.

    Args:
        most: How many it gets at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.slots = most
        self.pause_seconds = _PAUSE_SECONDS[0]
        """How long to wait before it gets one more."""

    @property
    def is_full(self) -> bool:
        """Whether the server gets as many requests as it may."""
        return self.slots == self._most

    def refuse(self, others: int, wished_seconds: float | None = None) -> None:
        """Record that it did not take a request.

        Args:
            others: How many it is working on.
            wished_seconds: How long it wants to be left alone; None if it does not say.
        """
        self.slots = min(self.slots, others)
        pause = max(2 * self.pause_seconds, wished_seconds or 0.0)
        self.pause_seconds = min(pause, _PAUSE_SECONDS[1])

    def grow(self) -> None:
        """Record that the pause is over."""
        self.slots = min(self._most, self.slots + 1)

    def succeed(self) -> None:
        """Record that it answered a request."""
        self.grow()
        self.pause_seconds = _PAUSE_SECONDS[0]
