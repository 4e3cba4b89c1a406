"""Limits the time and memory for reading an untrusted file."""

import contextlib
import resource
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn


@contextlib.contextmanager
def bounded(seconds: float, memory_bytes: int) -> Iterator[None]:
    """Run the block within limits on time and on the memory of the whole process.

    Only for the main thread of a dedicated process: the timer and the limit apply to the process.

    Raises:
        TimeoutError: The block takes longer.
        MemoryError: The block needs more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    handler = signal.signal(signal.SIGALRM, _raise)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    raise TimeoutError
