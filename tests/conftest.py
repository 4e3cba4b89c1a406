"""What all tests share.

Properties are tried on new examples at each run, much longer with
`just test --hypothesis-profile=slow`, and in CI on the same examples each time: what fails there, a
submission has broken.
"""

import pytest
import trio.testing
from hypothesis import HealthCheck, settings

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
