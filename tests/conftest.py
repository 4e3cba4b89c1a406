"""What all tests share.

Properties are tried much longer with `just test --hypothesis-profile=slow`.
"""

import pytest
import trio.testing
from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
