"""What a node's process and its host use."""

from shared.events.event import Event


class SystemSampled(Event, frozen=True, tag=4):
    """One sample of the node's process, its engine children and the host. A level."""

    uptime_seconds: float
    rss_bytes: int
    engine_rss_bytes: int
    available_bytes: int
    total_bytes: int
    swap_bytes: int
    node_cpu_percent: float
    engine_cpu_percent: float
    host_cpu_percent: float
    """Percent of one core for node and engine, percent of all cores for the host."""
    node_cpu_seconds: float
    engine_cpu_seconds: float
    """Totals since the node's start; ended child processes are included."""
    node_major_faults: int
    engine_major_faults: int
    tasks: int
    """Trio tasks that are running."""
    worker_threads_busy: int
    worker_threads_total: int
    open_descriptors: int = 0
    descriptors_limit: int = 0
    """How many the process may open; 0 if it has no limit."""


class EventLoopLagged(Event, frozen=True, tag=5):
    """How late the event loop woke a sleeping task, in seconds."""

    seconds: float
