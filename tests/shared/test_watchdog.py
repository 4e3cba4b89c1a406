"""When systemd's watchdog is to be pinged."""

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
    """Half of the time it waits, and only where it waits for this very process."""
    assert ping_seconds(environment, 7) == seconds
