"""Fixtures of the system tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.random_model import random_model
from tests.processes import Pair, Running


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """Directories and ports of one node and its exporter."""
    return Pair(tmp_path)


@pytest.fixture(scope="session")
def slow_model() -> Path:
    """A model of random weights that takes about 10 ms a token and never ends by itself."""
    return random_model()


@pytest.fixture(scope="session")
def shared_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Directories and ports of the processes that serve all tests that do not harm them."""
    return Pair(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def shared_exporter(shared_pair: Pair) -> Iterator[Running]:
    """One exporter for all tests that do not harm it."""
    with shared_pair.exporter() as exporter:
        yield exporter


@pytest.fixture(scope="session")
def shared_node(shared_pair: Pair) -> Iterator[Running]:
    """One node with the demo model for all tests that do not harm it."""
    with shared_pair.node() as node:
        yield node
