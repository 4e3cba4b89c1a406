"""Tells systemd's watchdog that the event loop of the exporter turns."""

import os

import sdnotify
import trio

from shared.watchdog import ping_seconds


async def run() -> None:
    """Ping the watchdog. Runs until cancelled, or ends at once where none waits."""
    seconds = ping_seconds(os.environ, os.getpid())
    if seconds is None:
        return
    notifier = sdnotify.SystemdNotifier()
    while True:
        notifier.notify("WATCHDOG=1")
        await trio.sleep(seconds)
