"""Fixtures of the node's tests."""

import pytest

from node.engine import supervisor
from tests.node.memory_child import Children


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    """Yield engine children in memory in place of processes."""
    given = Children()
    monkeypatch.setattr(supervisor, "open_child", given.open_child)
    return given
