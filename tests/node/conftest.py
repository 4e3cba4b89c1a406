"""Fixtures of the node's tests."""

import pytest
import trio.testing

from node.engine import supervisor
from tests.node.memory_child import Children


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """A clock that jumps as soon as every task waits; `trio_test` runs the test on it."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    """Engine children in memory in the place of processes."""
    given = Children()
    monkeypatch.setattr(supervisor, "open_child", given.open_child)
    return given
