"""The guard counts an exception in a part, logs it once, and restarts the part."""

import itertools
import logging
from collections import Counter

import pytest
import trio
from trio.testing import MockClock, trio_test, wait_all_tasks_blocked

from shared.runtime.guard import BACKOFF_SECONDS, Guard


@pytest.fixture
def counted() -> Counter[str]:
    return Counter()


@pytest.fixture
def guard(counted: Counter[str]) -> Guard[str]:
    def count(part: str) -> None:
        counted[part] += 1

    return Guard(count)


@trio_test
async def test_part_that_raises_is_counted_and_runs_again(
    guard: Guard[str], counted: Counter[str], autojump_clock: MockClock
) -> None:
    """An unexpected exception ends one run of the part, and the metric names the part."""
    del autojump_clock
    runs = []

    async def part(name: str) -> None:
        runs.append(name)
        if len(runs) < 3:
            raise ValueError(name)

    await guard("sampler", part, "given")
    assert (runs, counted) == (["given"] * 3, {"sampler": 2})


@trio_test
async def test_backoff_doubles_up_to_its_bound_and_recovers(
    guard: Guard[str], autojump_clock: MockClock
) -> None:
    """A part that keeps failing is restarted at growing intervals; one that ran well, soon."""
    del autojump_clock
    began: list[float] = []

    async def part() -> None:
        began.append(trio.current_time())
        if len(began) == 12:
            await trio.sleep(BACKOFF_SECONDS[1] + 1)
        if len(began) < 14:
            raise ValueError

    await guard("sampler", part)
    waits = [later - earlier for earlier, later in itertools.pairwise(began)]
    assert waits[:3] == pytest.approx([0.1, 0.2, 0.4])
    assert max(waits[:11]) == waits[10] == BACKOFF_SECONDS[1]
    assert waits[12] == pytest.approx(0.2)


@trio_test
async def test_cancelled_part_ends(guard: Guard[str], counted: Counter[str]) -> None:
    """Cancellation is not counted as an error, even if an error is raised with it."""

    async def part() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise_in_cleanup()

    def raise_in_cleanup() -> None:
        raise ValueError

    async with trio.open_nursery() as nursery:
        nursery.start_soon(guard, "watchdog", trio.sleep_forever)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not counted
    with trio.move_on_after(0) as scope:
        await guard("watchdog", part)
    assert scope.cancelled_caught
    assert counted == {"watchdog": 1}


@trio_test
async def test_error_before_the_start_reaches_the_starter(
    guard: Guard[str], counted: Counter[str]
) -> None:
    """A part that fails to start raises in the task that starts it."""

    async def part(*, task_status: trio.TaskStatus[int]) -> None:
        del task_status
        raise OSError("the port is taken")

    async with trio.open_nursery() as nursery:
        with pytest.raises(ExceptionGroup) as caught:
            await nursery.start(guard, "listener", part)
    assert caught.group_contains(OSError, match="the port is taken")
    assert not counted


@trio_test
async def test_started_part_starts_once_however_often_it_runs(
    guard: Guard[str], counted: Counter[str], autojump_clock: MockClock
) -> None:
    """`started` returns the value of the first run; later runs do not report again."""
    del autojump_clock
    runs = []

    async def part(*, task_status: trio.TaskStatus[int]) -> None:
        runs.append(1)
        task_status.started(len(runs))
        if len(runs) < 3:
            raise OSError

    async with trio.open_nursery() as nursery:
        assert await nursery.start(guard, "listener", part) == 1
    assert (len(runs), counted) == (3, {"listener": 2})


@trio_test
async def test_contained_work_fails_alone(guard: Guard[str], counted: Counter[str]) -> None:
    """A piece of work that must not be repeated ends with its error, and its part continues."""
    error = ValueError()

    def work() -> None:
        raise error

    with guard.contain("lane") as failed:
        work()
    with guard.contain("lane") as well:
        pass
    assert (failed.error, well.error, counted) == (error, None, {"lane": 1})


@trio_test
async def test_contained_work_in_a_nursery_shows_its_one_error(guard: Guard[str]) -> None:
    """The error is the exception inside the nursery's group."""

    async def work() -> None:
        raise ValueError("deep")

    with guard.contain("router") as unit:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
    assert repr(unit.error) == "ValueError('deep')"


@trio_test
async def test_traceback_is_logged_once(
    guard: Guard[str], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A part that fails all day does not fill the log."""
    del autojump_clock

    async def part() -> None:
        raise ValueError("planted")

    with trio.move_on_after(3600):
        await guard("sampler", part)
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [bool(record.exc_info) for record in records[:2]] == [True, False]
    assert 50 < len(records) < 61
    assert "ValueError('planted')" in records[-1].message
