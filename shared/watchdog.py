"""The interval of this process's watchdog (sd_watchdog_enabled(3))."""

from collections.abc import Mapping
from typing import Final

SECONDS_VARIABLE: Final = "WATCHDOG_USEC"
PROCESS_VARIABLE: Final = "WATCHDOG_PID"


def ping_seconds(environment: Mapping[str, str], process_id: int) -> float | None:
    """Return the seconds between two pings, half of the watchdog's timeout; None without one.

    Variables that name another process were inherited and are ignored.
    """
    named = environment.get(PROCESS_VARIABLE, "")
    if named and named != str(process_id):
        return None
    microseconds = environment.get(SECONDS_VARIABLE, "")
    if not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    return int(microseconds) / 1e6 / 2
