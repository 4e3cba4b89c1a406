"""Notifies the parent process that this process is ready, alive or stopping (sd_notify(3)).

Nothing here blocks: a stopped receiver, as by Ctrl-Z, must not stop its senders. sdnotify's socket
blocks once the receiver's queue is full, which happens after a dozen messages.
"""

import os
import socket
from typing import Final

import trio

from shared.watchdog import ping_seconds

SOCKET_VARIABLE: Final = "NOTIFY_SOCKET"
_RETRY_SECONDS: Final = 0.1


def notify(*assignments: str) -> bool:
    """Send a state such as `STOPPING=1`. Return False if the receiver's queue is full.

    Does nothing if there is no receiver, or if the receiver is gone.
    """
    path = os.environ.get(SOCKET_VARIABLE, "")
    address = "\0" + path[1:] if path.startswith("@") else path
    if not address:
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        try:
            sender.sendto("\n".join(assignments).encode(), address)
        except BlockingIOError:
            return False
        except OSError:  # gone, or access denied
            return True
    return True


async def announce(*assignments: str) -> None:
    """Send a state that must arrive, such as `READY=1`. Waits for room in the receiver's queue."""
    while not notify(*assignments):  # noqa: ASYNC110 - no event signals that there is room
        await trio.sleep(_RETRY_SECONDS)


async def ping_watchdog() -> None:
    """Notify the watchdog that the event loop is running. Runs until cancelled.

    Returns at once if no watchdog waits for this process.
    """
    seconds = ping_seconds(os.environ, os.getpid())
    if seconds is None:
        return
    while True:
        notify("WATCHDOG=1")
        await trio.sleep(seconds)
