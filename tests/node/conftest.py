"""Fixtures of the node's tests."""

import pytest

from tests.node.memory_child import Children


@pytest.fixture
def children() -> Children:
    """Return engine children in memory in place of processes."""
    return Children()
