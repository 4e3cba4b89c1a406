"""Contains unexpected errors in the long-lived parts of a process, so that the process continues.

A value that was accepted once may still cause an error later, in a sampler or a watcher that no
caller waits for. Every long-lived task therefore runs under its process's guard; only the
composition root ends the process.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, cast

import trio

from shared.groups import leaves
from shared.repeats import Repeats

BACKOFF_SECONDS: Final = (0.1, 30.0)
"""The first wait before a failed part runs again, and the longest; the wait doubles each time."""

_PartT_contra = TypeVar("_PartT_contra", bound=str, contravariant=True)

_log = logging.getLogger(__name__)


@dataclass
class Unit:
    """A piece of a part's work and its outcome."""

    error: BaseException | None = None
    """The exception that it raised; None on success."""


class Guard(Generic[_PartT_contra]):
    """Runs the long-lived parts of one process.

    An unexpected exception is counted by part and logged: the first time with its traceback, then
    once a minute with its count. Cancellation, Ctrl-C and the interpreter's exit pass through.

    Args:
        count: Called with the name of each part that fails.
    """

    def __init__(self, count: Callable[[_PartT_contra], None]) -> None:
        self._count = count
        self._repeats = Repeats(_log, trio.current_time)

    async def __call__(
        self,
        part: _PartT_contra,
        run: Callable[..., Awaitable[object]],
        *arguments: Any,
        task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run a part until it returns or is cancelled; run it again after an unexpected exception.

        As a task: `nursery.start_soon(guard, "sampler", sampler.run, name="sampler")`. With
        `nursery.start` the part gets a `task_status`. What it raises before it has started passes
        to the starter.

        Args:
            part: The part's name in the metric and in the log.
            run: The part. It must be safe to call again after a failure.
            arguments: Arguments of each call.
            task_status: Set by `nursery.start`.
        """
        status = _Status(task_status)
        backoff = BACKOFF_SECONDS[0]
        while True:
            began = trio.current_time()
            try:
                await run(*arguments, **status.keywords)
            except* Exception as group:
                if not status.is_started:
                    raise
                self._report(part, group)
            else:
                return
            if trio.current_time() - began > BACKOFF_SECONDS[1]:
                backoff = BACKOFF_SECONDS[0]
            await trio.sleep(backoff)
            backoff = min(2 * backoff, BACKOFF_SECONDS[1])

    def contain(self, part: _PartT_contra) -> "AbstractContextManager[Unit, bool]":
        """Contain what one piece of a part's work raises, for instance one request.

        For work that must not be repeated: the part continues after the block. Check the unit's
        `error` if a caller waits for the result.
        """
        # The cast tells mypy that the block may end early.
        return cast("AbstractContextManager[Unit, bool]", self._contain(part))

    @contextmanager
    def _contain(self, part: _PartT_contra) -> Iterator[Unit]:
        unit = Unit()
        try:
            yield unit
        except* Exception as group:  # noqa: BLE001 - any unexpected error
            unit.error = self._report(part, group)

    def _report(self, part: _PartT_contra, group: ExceptionGroup[Exception]) -> BaseException:
        found = leaves(group)
        error = found[0] if len(found) == 1 else group
        self._count(part)
        self._repeats.note(
            "%s failed unexpectedly and continues: %r",
            part,
            error,
            kind=f"{part} {type(error).__name__}",
            level=logging.ERROR,
            error=error,
        )
        return error


class _Status(trio.TaskStatus[Any]):
    """Reports once that a part has started, because the part may run again."""

    def __init__(self, task_status: trio.TaskStatus[Any]) -> None:
        self._task_status = task_status
        self.is_started = task_status is trio.TASK_STATUS_IGNORED
        self.keywords = {} if self.is_started else {"task_status": self}

    def started(self, value: Any = None) -> None:
        """Record that the part has started."""
        if not self.is_started:
            self.is_started = True
            self._task_status.started(value)
