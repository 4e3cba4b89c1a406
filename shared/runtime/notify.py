"""Tells whoever started this process that it is ready, alive or stopping (sd_notify(3)).

Nothing here blocks: a receiver that is stopped, as by Ctrl-Z, must not stop its senders. sdnotify's
socket blocks once the receiver's queue is full, which is after a dozen messages.
"""

import os
import socket
from typing import Final

import trio

from shared.watchdog import ping_seconds

SOCKET_VARIABLE: Final = "NOTIFY_SOCKET"
_RETRY_SECONDS: Final = 0.1


def notify(*assignments: str) -> bool:
    """Send a state such as `STOPPING=1`; return false where the receiver's queue has no room.

    Without a receiver, or one that is gone, there is nobody to tell.
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
        except OSError:  # gone, or not allowed in
            return True
    return True


async def announce(*assignments: str) -> None:
    """Send a state that must arrive, such as `READY=1`. Waits for room in the receiver's queue."""
    while not notify(*assignments):  # noqa: ASYNC110 - no event says that there is room
        await trio.sleep(_RETRY_SECONDS)


async def ping_watchdog() -> None:
    """Tell the watchdog that the event loop turns.

    Runs until cancelled; returns at once where no watchdog waits for this process.
    """
    seconds = ping_seconds(os.environ, os.getpid())
    if seconds is None:
        return
    while True:
        notify("WATCHDOG=1")
        await trio.sleep(seconds)
