"""Waits for ports that an ending process still holds."""

import errno
import socket
from typing import Final

import trio

_RELEASE_SECONDS: Final = 2.0
"""A killed process releases its ports within milliseconds, on a busy machine within a second."""
_LOOK_SECONDS: Final = 0.05


async def wait_released(*addresses: tuple[str, int]) -> None:
    """Wait until these hosts and ports are free, at most two seconds.

    If a port stays taken, the process that binds it next reports the error.
    """
    with trio.move_on_after(_RELEASE_SECONDS):
        for host, port in addresses:
            while _is_taken(host, port):  # noqa: ASYNC110 - no event signals that a port is free
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
