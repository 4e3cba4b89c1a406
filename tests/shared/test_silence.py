"""Silence is measured in the watcher's own running time."""

import trio
from trio.testing import MockClock, trio_test

from shared.runtime.silence import sleep_awake, wait_silence


@trio_test
async def test_silence_ends_the_wait(autojump_clock: MockClock) -> None:
    """Without a sign of life the wait ends after the given time."""
    del autojump_clock
    began = trio.current_time()
    await wait_silence(lambda: 0, 30)
    assert trio.current_time() - began == 30


@trio_test
async def test_each_sign_of_life_renews_it(autojump_clock: MockClock) -> None:
    """Each sign of life restarts the time."""
    del autojump_clock
    began = trio.current_time()
    await wait_silence(lambda: min(trio.current_time(), began + 50), 30)
    assert 80 <= trio.current_time() - began <= 81


@trio_test
async def test_own_freeze_does_not_count(autojump_clock: MockClock) -> None:
    """A freeze of this process counts as one step only, however long it is."""
    began = trio.current_time()

    async def freeze() -> None:
        for _ in range(3):
            await trio.sleep(2.5)
            autojump_clock.jump(1000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(freeze)
        await sleep_awake(30)
    assert 3000 + 27 <= trio.current_time() - began <= 3000 + 30


@trio_test
async def test_short_patience_survives_a_freeze(autojump_clock: MockClock) -> None:
    """A freeze is recognised with timeouts of less than a second, too."""
    began = trio.current_time()

    async def freeze() -> None:
        await trio.sleep(0.25)
        autojump_clock.jump(1000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(freeze)
        await sleep_awake(0.8)
    assert 1000.65 < trio.current_time() - began < 1000.85
