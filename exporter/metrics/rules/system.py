"""What a node's process and its host use."""

from typing import Final

from exporter.metrics.catalogue.node import NODE_UPTIME
from exporter.metrics.catalogue.system import (
    CPU,
    CPU_SECONDS,
    DESCRIPTORS,
    LOOP_LAG,
    MAJOR_FAULTS,
    MEMORY,
    TASKS,
    WORKER_THREADS,
)
from exporter.metrics.rules.rule import Rule, Sample
from shared.events.event import Event
from shared.events.system import EventLoopLagged, SystemSampled


def _system_sampled(node: str, e: SystemSampled) -> tuple[Sample, ...]:
    return (
        (NODE_UPTIME, (node,), e.uptime_seconds),
        (MEMORY, (node, "rss"), e.rss_bytes),
        (MEMORY, (node, "engine_rss"), e.engine_rss_bytes),
        (MEMORY, (node, "available"), e.available_bytes),
        (MEMORY, (node, "total"), e.total_bytes),
        (MEMORY, (node, "swap"), e.swap_bytes),
        (CPU, (node, "node"), e.node_cpu_percent),
        (CPU, (node, "engine"), e.engine_cpu_percent),
        (CPU, (node, "host"), e.host_cpu_percent),
        (CPU_SECONDS, (node, "node"), e.node_cpu_seconds),
        (CPU_SECONDS, (node, "engine"), e.engine_cpu_seconds),
        (MAJOR_FAULTS, (node, "node"), e.node_major_faults),
        (MAJOR_FAULTS, (node, "engine"), e.engine_major_faults),
        (TASKS, (node,), e.tasks),
        (WORKER_THREADS, (node, "busy"), e.worker_threads_busy),
        (WORKER_THREADS, (node, "total"), e.worker_threads_total),
        (DESCRIPTORS, (node, "open"), e.open_descriptors),
        (DESCRIPTORS, (node, "limit"), e.descriptors_limit),
    )


def _event_loop_lagged(node: str, e: EventLoopLagged) -> tuple[Sample, ...]:
    return ((LOOP_LAG, (node,), e.seconds),)


RULES: Final[dict[type[Event], Rule]] = {
    SystemSampled: _system_sampled,
    EventLoopLagged: _event_loop_lagged,
}
