"""Hypothesis profiles, fixtures and timeouts that all tests share.

By default, properties are tested on new examples at each run; `just test --hypothesis-profile=slow`
tests many more. CI uses the same examples each time, so that a failure there is caused by the
submission.
"""

import re
from collections.abc import Generator
from pathlib import Path
from typing import Final

import httpx
import pytest
import trio.testing
from hypothesis import HealthCheck, settings

from tests import patience

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.register_profile(
    "slow",
    max_examples=10_000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Return a clock that jumps as soon as every task waits; `trio_test` runs the test on it."""
    return trio.testing.MockClock(autojump_threshold=0)


_TEST_SECONDS: Final = 300.0
"""Timeout of a test on an idle machine."""
_HTTP_SECONDS: Final = 60.0
"""Timeout of a response on an idle machine. The default of httpx, 5 s, is short under load."""
_SLOW_MODULE: Final = re.compile(r"^pytestmark = (\[\s*)?pytest\.mark\.slow\b", re.MULTILINE)
_LONGEST_FIRST: Final = ("system", "deployments", "monitoring", "shared")


def pytest_configure() -> None:
    """Start measuring the load of the machine."""
    patience.watch()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave modules of slow tests alone in the quick runs: to import them takes seconds."""
    if config.option.markexpr != "not slow" or not collection_path.match("test_*.py"):
        return None
    return True if _SLOW_MODULE.search(collection_path.read_text()) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest tests first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.path.parent.name not in _LONGEST_FIRST)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Extend the timeouts of a test and of its requests on a busy machine."""
    item.add_marker(pytest.mark.timeout(patience.patient(_TEST_SECONDS)))
    for phase in ("connect", "read", "write", "pool"):
        setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, phase, patience.patient(_HTTP_SECONDS))
    return (yield)
