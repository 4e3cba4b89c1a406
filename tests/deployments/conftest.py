"""Fixtures of the tests of deployments."""

from pathlib import Path

import pytest

from tests.processes import Pair


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A place for one node and its exporter."""
    return Pair(tmp_path)
