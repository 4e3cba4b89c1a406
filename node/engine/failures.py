"""The failed loads of one model: why it is not loaded, and whether another try makes sense."""

import time
from datetime import UTC, datetime
from typing import Final

from node.engine.loading import CannotLoadError, LostLoadError
from node.errors import HeldElsewhereError, InsufficientMemoryError, RequestError

_LOADS: Final = 10
"""A model that was served before is given up after this many failed loads in a row, which takes
about 50 s. Until then its requests wait."""
_FIRST_LOADS: Final = 4
"""The same for a model that was never served, if its engine ended in each of them. Some may have
been killed by accident, but a model that brings its engine down must fail the start soon."""


class Failures:
    """The failed loads since the last one that succeeded."""

    def __init__(self) -> None:
        self.final: RequestError | None = None
        """Why waiting for an engine is useless; a fresh copy is raised each time."""
        self._was_loaded = False
        """Whether the model was ever loaded."""
        self._in_a_row = 0
        self._last = ""
        """Why the last load failed; empty if it did not."""
        self._since = 0.0
        """Unix time since when loads have failed."""

    @property
    def defers(self) -> bool:
        """Whether another node serves the model for this one, because it does not fit here."""
        return isinstance(self.final, HeldElsewhereError)

    @property
    def lacks_memory(self) -> bool:
        """Whether neither this node nor several together had memory for it at the last try."""
        return isinstance(self.final, InsufficientMemoryError)

    @property
    def text(self) -> str:
        """Why the model cannot be loaded now; empty if nothing is known to prevent it."""
        return str(self.final or "")

    @property
    def fault(self) -> str:
        """Why the model cannot be loaded, and since when; empty if it can, or is being loaded."""
        if not self._last:
            return ""
        since = datetime.fromtimestamp(self._since, UTC).isoformat(timespec="seconds")
        return f"{self._last} (since {since})"

    def begin(self) -> None:
        """Record that the model is wanted again: earlier failures do not count."""
        self.final = None
        self._in_a_row = 0

    def add(self, failure: RequestError) -> bool:
        """Record a failed load. Return whether the next one may succeed."""
        self._in_a_row += 1
        self._since = self._since if self._last else time.time()
        self._last = str(failure)
        if isinstance(failure, CannotLoadError | InsufficientMemoryError):
            return False
        if self._was_loaded:
            return self._in_a_row < _LOADS
        return isinstance(failure, LostLoadError) and self._in_a_row < _FIRST_LOADS

    def note_loaded(self) -> None:
        """Record that the model is loaded."""
        self.begin()
        self._was_loaded = True
        self._last = ""
