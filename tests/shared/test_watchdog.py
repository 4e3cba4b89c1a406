"""When to ping systemd's watchdog."""

import pytest

from shared.watchdog import ping_seconds


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
        ({"WATCHDOG_PID": "7"}, None),
    ],
)
def test_watchdog_is_pinged_twice_as_often_as_it_wants(
    environment: dict[str, str], seconds: float | None
) -> None:
    """The interval is half of the timeout, and only if the watchdog waits for this process."""
    assert ping_seconds(environment, 7) == seconds
