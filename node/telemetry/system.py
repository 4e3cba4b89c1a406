"""Samples the process, its engine children and the host, and the lag of the event loop."""

import contextlib
import logging
import resource
import time
from collections.abc import Callable, Iterable
from typing import Final

import psutil
import trio

from shared.events.event import Event
from shared.events.system import EventLoopLagged, SystemSampled
from shared.runtime.beats import next_beat

LAG_SAMPLE_SECONDS: Final = 0.1

_log = logging.getLogger(__name__)


class SystemSampler:
    """Takes `SystemSampled` samples.

    Args:
        children: Returns the process ids of the running engine children.
    """

    def __init__(self, children: Callable[[], Iterable[int]]) -> None:
        self._children = children
        self._node = psutil.Process()
        self._engines: dict[int, psutil.Process] = {}
        self._ended_cpu_seconds = 0.0
        self._ended_major_faults = 0
        self._last_cpu_seconds: dict[int, float] = {}
        self._last_major_faults: dict[int, int] = {}
        self._began = time.monotonic()
        self._node.cpu_percent()  # the first call only sets the reference for the next
        psutil.cpu_percent()

    def sample(self) -> SystemSampled:
        """Return a new sample; costs a few dozen microseconds per process."""
        self._follow_children()
        memory = psutil.virtual_memory()
        node_times = self._node.cpu_times()
        engines = [self._read_engine(process) for process in list(self._engines.values())]
        threads = trio.to_thread.current_default_thread_limiter().statistics()
        return SystemSampled(
            uptime_seconds=time.monotonic() - self._began,
            rss_bytes=self._node.memory_info().rss,
            engine_rss_bytes=sum(rss for rss, _ in engines),
            available_bytes=memory.available,
            total_bytes=memory.total,
            swap_bytes=psutil.swap_memory().used,
            node_cpu_percent=self._node.cpu_percent(),
            engine_cpu_percent=sum(percent for _, percent in engines),
            host_cpu_percent=psutil.cpu_percent(),
            node_cpu_seconds=node_times.user + node_times.system,
            engine_cpu_seconds=self._ended_cpu_seconds + sum(self._last_cpu_seconds.values()),
            node_major_faults=_major_faults(self._node),
            engine_major_faults=self._ended_major_faults + sum(self._last_major_faults.values()),
            tasks=trio.lowlevel.current_statistics().tasks_living,
            worker_threads_busy=int(threads.borrowed_tokens),
            worker_threads_total=int(threads.total_tokens),
            open_descriptors=self._node.num_fds(),
            descriptors_limit=_descriptors_limit(),
        )

    def _follow_children(self) -> None:
        living = set(self._children())
        for pid in set(self._engines) - living:
            del self._engines[pid]
            self._ended_cpu_seconds += self._last_cpu_seconds.pop(pid, 0.0)
            self._ended_major_faults += self._last_major_faults.pop(pid, 0)
        for pid in living - set(self._engines):
            with contextlib.suppress(psutil.NoSuchProcess):
                self._engines[pid] = psutil.Process(pid)
                self._engines[pid].cpu_percent()

    def _read_engine(self, process: psutil.Process) -> tuple[int, float]:
        """Record a child's totals; return resident bytes and CPU percent, or zeros if it ended."""
        try:
            with process.oneshot():
                times = process.cpu_times()
                self._last_cpu_seconds[process.pid] = times.user + times.system
                self._last_major_faults[process.pid] = _major_faults(process)
                return process.memory_info().rss, process.cpu_percent()
        except psutil.NoSuchProcess:
            return 0, 0.0


def _descriptors_limit() -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 0 if limit == resource.RLIM_INFINITY else limit


def _major_faults(process: psutil.Process) -> int:
    """Read field 12 of /proc/PID/stat (proc(5)), which psutil does not offer."""
    try:
        with open(f"/proc/{process.pid}/stat", "rb") as stat:  # noqa: PTH123 - once a second
            return int(stat.read().rpartition(b")")[2].split()[9])
    except (OSError, IndexError, ValueError):
        return 0


async def watch_loop_lag(emit: Callable[[Event], None]) -> None:
    """Report how late the event loop wakes a sleeper. Runs until cancelled."""
    while True:
        due = next_beat(trio.current_time(), LAG_SAMPLE_SECONDS)
        await trio.sleep_until(due)
        emit(EventLoopLagged(max(0.0, trio.current_time() - due)))
