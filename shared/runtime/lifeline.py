"""Replaces itself with a program that the kernel kills once the program's owner ends.

The owner holds the other end of a pipe. When the owner ends, for any reason, the kernel closes that
end and signals the process that waits for the pipe (fcntl(2), F_SETOWN, F_SETSIG). The signal is
SIGKILL, so the program may be stopped, starved or deep in a library. A parent-death signal
(PR_SET_PDEATHSIG) does not work here: it is sent when the thread that started the process ends, and
Trio starts processes in short-lived threads.

A script without imports of the project, so that it takes only a few milliseconds: `python -I -S
lifeline.py DESCRIPTOR PROGRAM [ARGUMENT …]`.
"""

import fcntl
import os
import select
import signal
import sys


def tie(descriptor: int) -> None:
    """Make the kernel kill this process as soon as the pipe's other end is closed."""
    if hasattr(fcntl, "F_SETSIG"):  # Linux only; elsewhere the processes of a killed owner survive
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_ASYNC)
    poller = select.poll()  # unlike select, it accepts descriptors above 1023
    poller.register(descriptor, 0)
    if poller.poll(0):  # closed before this process waited for it
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    tie(int(sys.argv[1]))
    if sys.argv[2] != sys.executable:  # programs in other languages expect the default
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the owner chooses the program
    except OSError as error:
        sys.exit(f"{sys.argv[2]} cannot be run: {error.strerror}")
