"""The signals that stop a process, and the one that a terminal may fail to send."""

import os
import select
import signal
from typing import Final

import trio

_LOOK_SECONDS: Final = 0.5


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that request a clean stop.

    SIGHUP reports that the terminal was closed. Under `nohup` it is ignored and stays ignored.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return signal.SIGTERM, signal.SIGINT
    return signal.SIGTERM, signal.SIGINT, signal.SIGHUP


async def watch_terminal() -> None:
    """Send SIGHUP to this process when the terminal of its foreground group is closed.

    The kernel signals only the session's leader. A shell forwards the signal; `just`, which is the
    leader under `ssh -t host just run-local`, does not. Returns after the signal, or at once
    without a terminal.
    """
    terminal = next(filter(os.isatty, range(3)), None)
    if terminal is None:
        return
    poller = select.poll()
    poller.register(terminal, 0)  # for what poll always reports: a hang-up
    was_foreground = False
    while not poller.poll(0):
        was_foreground = _is_foreground(terminal)
        await trio.sleep(_LOOK_SECONDS)
    if was_foreground:
        os.kill(os.getpid(), signal.SIGHUP)


def _is_foreground(terminal: int) -> bool:
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:  # a terminal of another session
        return False
