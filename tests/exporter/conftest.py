"""Fixtures of the exporter's tests."""

import pytest
import trio.testing


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """A clock that jumps as soon as every task waits; `trio_test` runs the test on it."""
    return trio.testing.MockClock(autojump_threshold=0)
