"""Tests the beats to which periodic tasks wake."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, trio_test

from shared.runtime.beats import next_beat, sleep_to_beat

PERIODS = st.sampled_from([0.1, 0.2, 0.5, 1.0])


@given(st.floats(0, 1e6), PERIODS)
def test_the_next_beat_is_at_most_a_period_away(now: float, seconds: float) -> None:
    """A sleeper wakes later than now, so it cannot spin, and misses no beat."""
    beat = next_beat(now, seconds)
    assert now < beat < now + seconds * 1.001


@given(st.integers(0, 10_000_000), PERIODS)
def test_who_wakes_on_a_beat_sleeps_to_the_one_after(beats: int, seconds: float) -> None:
    """A clock that shows the beat itself, however it is rounded, does not give the same again."""
    assert next_beat(beats * seconds, seconds) == pytest.approx((beats + 1) * seconds, abs=1e-6)


@trio_test
async def test_tasks_with_different_periods_wake_together(autojump_clock: MockClock) -> None:
    """Five beats of 0.2 s and ten of 0.1 s end at the same moment, whenever they began."""
    del autojump_clock
    ends: list[float] = []

    async def beat(start: float, seconds: float, end: float) -> None:
        await trio.sleep(start)
        while trio.current_time() < end - 1e-6:
            await sleep_to_beat(seconds)
        ends.append(trio.current_time())

    end = next_beat(trio.current_time(), 1.0) + 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat, 0.03, 0.1, end)
        nursery.start_soon(beat, 0.07, 0.2, end)
        nursery.start_soon(beat, 0.0, 1.0, end)
    assert ends == pytest.approx([end] * 3, abs=1e-6)
