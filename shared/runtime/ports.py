"""Waits for ports that a process which is just ending still holds."""

import errno
import socket
from typing import Final

import trio

_RELEASE_SECONDS: Final = 2.0
"""A killed process lets go of its ports within milliseconds, on a busy machine within a second."""
_LOOK_SECONDS: Final = 0.05


async def wait_released(*addresses: tuple[str, int]) -> None:
    """Wait until nobody listens on these hosts and ports any more, but two seconds at most.

    Who then listens there finds out what is wrong with a port that stays taken.
    """
    with trio.move_on_after(_RELEASE_SECONDS):
        for host, port in addresses:
            while _is_taken(host, port):  # noqa: ASYNC110 - no event says that a port is free
                await trio.sleep(_LOOK_SECONDS)


def _is_taken(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False
