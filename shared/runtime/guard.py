"""Contains what a long-lived part of a process did not expect, so that the process goes on.

A value that was accepted once may still raise later, in a sampler or a watcher that nobody waits
for. Every long-lived task therefore runs under the guard of its process; only the composition
root ends the process.
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
"""Before the next run of a part that failed: the first wait, and the longest that it doubles to."""

_PartT_contra = TypeVar("_PartT_contra", bound=str, contravariant=True)

_log = logging.getLogger(__name__)


@dataclass
class Unit:
    """A piece of a part's work, and how it ended."""

    error: BaseException | None = None
    """What it raised; None where it went well."""


class Guard(Generic[_PartT_contra]):
    """Runs the long-lived parts of one process.

    An unexpected exception is counted by part and logged, the first time with its traceback and
    then once a minute with its count. Cancellation, Ctrl-C and the end of the interpreter pass.

    Args:
        count: Takes the name of a part that failed.
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
        """Run a part until it returns or is cancelled; after an unexpected exception run it again.

        As a task: `nursery.start_soon(guard, "sampler", sampler.run, name="sampler")`. With
        `nursery.start` the part gets a `task_status`, and what it raises before it has started
        passes: its starter handles it.

        Args:
            part: Its name in the metric and in the log.
            run: The part, which can be called again after it has failed.
            arguments: Of each call.
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

        For work that must not be done twice: the part goes on behind the block, and looks at the
        unit's `error` where somebody waits for the work.
        """
        # The cast tells mypy that the block can end early.
        return cast("AbstractContextManager[Unit, bool]", self._contain(part))

    @contextmanager
    def _contain(self, part: _PartT_contra) -> Iterator[Unit]:
        unit = Unit()
        try:
            yield unit
        except* Exception as group:  # noqa: BLE001 - whatever nobody expected
            unit.error = self._report(part, group)

    def _report(self, part: _PartT_contra, group: ExceptionGroup[Exception]) -> BaseException:
        found = leaves(group)
        error = found[0] if len(found) == 1 else group
        self._count(part)
        self._repeats.note(
            "%s failed unexpectedly and goes on: %r",
            part,
            error,
            kind=f"{part} {type(error).__name__}",
            level=logging.ERROR,
            error=error,
        )
        return error


class _Status(trio.TaskStatus[Any]):
    """Passes on that a part has started, once, for it may be run again."""

    def __init__(self, task_status: trio.TaskStatus[Any]) -> None:
        self._task_status = task_status
        self.is_started = task_status is trio.TASK_STATUS_IGNORED
        self.keywords = {} if self.is_started else {"task_status": self}

    def started(self, value: Any = None) -> None:
        """Take note that the part has started."""
        if not self.is_started:
            self.is_started = True
            self._task_status.started(value)
