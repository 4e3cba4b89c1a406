"""Replaces itself by a program that the kernel kills once the program's owner is gone.

The owner holds the other end of a pipe. When it ends, however that comes about, the kernel closes
that end and signals the one who waits for news from the pipe (fcntl(2), F_SETOWN, F_SETSIG). The
signal is SIGKILL: it needs no help of the program, which may be stopped, starved or deep in a
library. A parent-death signal (PR_SET_PDEATHSIG) would do the same, were it not sent when the
thread ends that started the process, and Trio starts processes in threads that come and go.

A script without imports of the project, so that it is done in a few milliseconds:
`python -I -S lifeline.py DESCRIPTOR PROGRAM [ARGUMENT …]`.
"""

import fcntl
import os
import select
import signal
import sys


def tie(descriptor: int) -> None:
    """Have the kernel kill this process as soon as the pipe's other end is closed."""
    if hasattr(fcntl, "F_SETSIG"):  # Linux; elsewhere a killed owner leaves its processes behind
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_ASYNC)
    poller = select.poll()  # unlike select it takes numbers above 1023, which a busy node has
    poller.register(descriptor, 0)
    if poller.poll(0):  # closed before anybody waited for it
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    tie(int(sys.argv[1]))
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # the interpreter ignores them, as programs
        signal.signal(number, signal.SIG_DFL)  # that are written in other languages should not
    try:
        os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the owner names the program
    except OSError as error:
        sys.exit(f"{sys.argv[2]} cannot be run: {error.strerror}")
