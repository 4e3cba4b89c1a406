"""Reports the progress of a model's download or load: as events, and as a bar or log lines."""

import logging
import sys
from collections.abc import Callable
from typing import Final, NoReturn

import trio
from tqdm import tqdm

from shared.events.event import Event
from shared.events.models import LoadStage, ModelLoadProgressed

_QUIET_SECONDS: Final = 1.0
"""Anything faster needs neither a bar nor a line."""
_LINE_SECONDS: Final = 10.0
_EVENT_SECONDS: Final = 0.2
_WORDS: Final = {"download": "downloading", "read": "loading"}

_log = logging.getLogger(__name__)


class Progress:
    """The progress of one model in one stage.

    Args:
        model_id: The model.
        stage: The stage, such as its download.
        emit: Receives events.
    """

    def __init__(self, model_id: str, stage: LoadStage, emit: Callable[[Event], None]) -> None:
        self._model_id = model_id
        self._stage: LoadStage = stage
        self._what = f"{_WORDS[stage]} {model_id}"
        self._emit = emit
        self._line_at = trio.current_time() + _QUIET_SECONDS
        self._event_at = trio.current_time()
        self._bar: tqdm[NoReturn] | None = None

    def note(self, done_bytes: int, total_bytes: int) -> None:
        """Record the progress; cheap enough to call for every block of a file."""
        now = trio.current_time()
        is_done = done_bytes >= total_bytes
        if now >= self._event_at or is_done:
            self._event_at = now + _EVENT_SECONDS
            self._emit(ModelLoadProgressed(self._model_id, self._stage, done_bytes, total_bytes))
        if sys.stderr.isatty():
            self._draw(done_bytes, total_bytes, is_done=is_done)
        elif now >= self._line_at:
            self._line_at = now + _LINE_SECONDS
            _log.info("%s: %.0f %%", self._what, 100 * done_bytes / max(1, total_bytes))

    def close(self) -> None:
        """Finish the progress bar, whether or not it is complete."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _draw(self, done_bytes: int, total_bytes: int, *, is_done: bool) -> None:
        if self._bar is None and not is_done:
            self._bar = tqdm(
                total=total_bytes,
                desc=self._what,
                unit="B",
                unit_scale=True,
                delay=_QUIET_SECONDS,
                leave=False,
            )
        if self._bar is not None:
            self._bar.update(done_bytes - self._bar.n)
            if is_done:
                self.close()
