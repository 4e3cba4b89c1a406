"""What wakes the reader of an answer."""

import pytest
import trio
from trio.testing import trio_test, wait_all_tasks_blocked

from node.requests.arrival import Arrival


@trio_test
async def test_each_note_wakes_the_waiting_task_once() -> None:
    """A note wakes the task that waits; without one it is not remembered."""
    arrival, woken = Arrival(), []

    async def wait() -> None:
        for number in range(2):
            await arrival.wait()
            woken.append(number)

    arrival.note()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        for number in range(2):
            await wait_all_tasks_blocked()
            assert len(woken) == number
            arrival.note()
            arrival.note()


@trio_test
async def test_a_cancelled_wait_makes_room_for_the_next() -> None:
    """A task that gave up is not woken, and another one may wait."""
    arrival = Arrival()
    with trio.CancelScope() as scope:
        scope.cancel()
        await arrival.wait()
    assert scope.cancelled_caught
    arrival.note()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrival.wait)
        await wait_all_tasks_blocked()
        arrival.note()


@trio_test
async def test_only_one_task_may_wait() -> None:
    """A second reader would lose pieces, so it is refused."""
    arrival = Arrival()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrival.wait)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await arrival.wait()
        arrival.note()
