"""How many files and sockets this process may have open, and how many of them for connections."""

import logging
import resource
from typing import Final

LEAST_CONNECTIONS: Final = 8
"""Fewer would not serve anybody, whatever the limit."""

_log = logging.getLogger(__name__)


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; return the limit that then holds.

    Children inherit it. The soft one is 1024 on most systems, for programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS has a hard limit that it does not grant
        return soft
    return hard


def fit_connections(wanted: int, limit: int, reserved: int) -> int:
    """Return how many connections may be open at once, and log it where that is less than wanted.

    Args:
        wanted: By the settings.
        limit: Of open files; negative for none, as `resource.RLIM_INFINITY` is.
        reserved: Files and sockets that everything else needs.
    """
    left = max(LEAST_CONNECTIONS, limit - reserved) if limit >= 0 else wanted
    if left < wanted:
        _log.warning(
            "at most %d connections instead of %d: the limit of open files (ulimit -n) is %d",
            left,
            wanted,
            limit,
        )
    return min(wanted, left)
