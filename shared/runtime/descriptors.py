"""The limit of open files, and how many connections it allows."""

import logging
import resource
from typing import Final

LEAST_CONNECTIONS: Final = 8
"""With fewer, the process cannot serve at all; so this many are accepted under any limit."""

_log = logging.getLogger(__name__)


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard limit. Return the new limit.

    Child processes inherit it. The usual soft limit, 1024, exists for programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS reports a hard limit that it does not grant
        return soft
    return hard


def fit_connections(wanted: int, limit: int, reserved: int) -> int:
    """Return how many connections may be open at once; log it if that is fewer than wanted.

    Args:
        wanted: The number in the settings.
        limit: The limit of open files; negative for unlimited, like `resource.RLIM_INFINITY`.
        reserved: Files and sockets that everything else needs.
    """
    left = max(LEAST_CONNECTIONS, limit - reserved) if limit >= 0 else wanted
    if left < wanted:
        _log.warning(
            "connections limited to %d instead of %d: the limit of open files (ulimit -n) is %d",
            left,
            wanted,
            limit,
        )
    return min(wanted, left)
