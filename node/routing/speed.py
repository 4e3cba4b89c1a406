"""Measures how fast this machine decodes, in a unit that is valid for every model."""

from collections.abc import Callable
from typing import Final

from shared.events.event import Event
from shared.events.models import ModelDescribed
from shared.events.requests import InferenceFinished

_TELLING: Final = (InferenceFinished, ModelDescribed)
_KEPT: Final = 0.8
"""The weight of the last estimate at each new answer."""
_TOKENS: Final = 8
"""Shorter answers are too inaccurate."""


class SpeedMeter:
    """Passes events on and measures the speed from each answer.

    A token requires one reading of all weights, so weights read per second is a machine's speed for
    any model (roughly: a long context costs more).

    Args:
        emit: Receives the events.
    """

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self.bytes_per_second = 0.0
        """0 before the first answer."""
        self._emit = emit
        self._sizes: dict[str, int] = {}

    def emit(self, event: Event) -> None:
        """Pass an event on, and measure the speed if the event contains it."""
        self._emit(event)
        if isinstance(event, _TELLING):
            self._note(event)

    def _note(self, event: InferenceFinished | ModelDescribed) -> None:
        if isinstance(event, ModelDescribed):
            self._sizes[event.model_id] = event.size_bytes
            return
        if event.generated_tokens < _TOKENS or event.decode_seconds <= 0:
            return
        tokens_per_second = (event.generated_tokens - 1) / event.decode_seconds
        measured = tokens_per_second * self._sizes.get(event.model_id, 0)
        kept = _KEPT if self.bytes_per_second else 0.0
        self.bytes_per_second = kept * self.bytes_per_second + (1 - kept) * measured
