"""What all tests share.

Properties are tried on new examples at each run, much longer with
`just test --hypothesis-profile=slow`, and in CI on the same examples each time: what fails there, a
submission has broken.
"""

from collections.abc import Generator
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
    """A clock that jumps as soon as every task waits; `trio_test` runs the test on it."""
    return trio.testing.MockClock(autojump_threshold=0)


_TEST_SECONDS: Final = 300.0
"""After which a test hangs, on an idle machine."""
_HTTP_SECONDS: Final = 60.0
"""After which a response does not come. httpx's own 5 s are short beside other work."""
_LONGEST_FIRST: Final = ("system", "deployments", "monitoring")


def pytest_configure() -> None:
    """Begin to measure the machine."""
    patience.watch()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.path.parent.name not in _LONGEST_FIRST)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Give a test, and each response in it, more time on a busy machine."""
    item.add_marker(pytest.mark.timeout(patience.patient(_TEST_SECONDS)))
    for phase in ("connect", "read", "write", "pool"):
        setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, phase, patience.patient(_HTTP_SECONDS))
    return (yield)
