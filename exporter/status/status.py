"""Keeps the history going, and the picture that all readers of `/status` share."""

import math
from collections.abc import Callable
from typing import Any, Final

import msgspec
import trio

from exporter.metrics.state import State
from exporter.status.history import STEP_SECONDS, History
from exporter.status.picture import Painter

PICTURE_SECONDS: Final = 1.0
"""A picture is drawn at most this often, however many read it, and only if somebody does."""


class Status:
    """The picture of a state, as JSON.

    Args:
        state: The series and nodes.
        report: Returns whether all is well, and the last report of the health checks.
        engine_silence_seconds: Work without progress for this long is a stall.
    """

    def __init__(
        self,
        state: State,
        report: Callable[[], tuple[bool, dict[str, Any]]],
        engine_silence_seconds: float,
    ) -> None:
        self._state = state
        self._report = report
        self._engine_silence_seconds = engine_silence_seconds
        self._history = History(state)
        self._started_at = trio.current_time()
        self._drawn_at = -math.inf
        self._drawn = b""

    async def run(self) -> None:
        """Sample the history periodically. Runs until cancelled."""
        while True:
            self._history.sample(trio.current_time())
            await trio.sleep(STEP_SECONDS)

    def current(self) -> bytes:
        """Return the picture, at most a second old."""
        now = trio.current_time()
        if now - self._drawn_at >= PICTURE_SECONDS:
            self._drawn = self._draw(now)
            self._drawn_at = now
        return self._drawn

    def _draw(self, now: float) -> bytes:
        painter = Painter(self._state, self._history, self._engine_silence_seconds, now)
        _, health = self._report()
        return msgspec.json.encode(painter.draw(health, now - self._started_at))
