"""What a node's process and its host use."""

from collections.abc import Iterator
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
from exporter.metrics.rules.rule import Column, GroupRule
from shared.events.event import Event
from shared.events.system import EventLoopLagged, SystemSampled


def _system_sampled(node: str, sampled: list[SystemSampled]) -> Iterator[Column]:
    yield NODE_UPTIME, (node,), [e.uptime_seconds for e in sampled]
    yield MEMORY, (node, "rss"), [e.rss_bytes for e in sampled]
    yield MEMORY, (node, "engine_rss"), [e.engine_rss_bytes for e in sampled]
    yield MEMORY, (node, "available"), [e.available_bytes for e in sampled]
    yield MEMORY, (node, "total"), [e.total_bytes for e in sampled]
    yield MEMORY, (node, "swap"), [e.swap_bytes for e in sampled]
    yield CPU, (node, "node"), [e.node_cpu_percent for e in sampled]
    yield CPU, (node, "engine"), [e.engine_cpu_percent for e in sampled]
    yield CPU, (node, "host"), [e.host_cpu_percent for e in sampled]
    yield CPU_SECONDS, (node, "node"), [e.node_cpu_seconds for e in sampled]
    yield CPU_SECONDS, (node, "engine"), [e.engine_cpu_seconds for e in sampled]
    yield MAJOR_FAULTS, (node, "node"), [e.node_major_faults for e in sampled]
    yield MAJOR_FAULTS, (node, "engine"), [e.engine_major_faults for e in sampled]
    yield TASKS, (node,), [e.tasks for e in sampled]
    yield WORKER_THREADS, (node, "busy"), [e.worker_threads_busy for e in sampled]
    yield WORKER_THREADS, (node, "total"), [e.worker_threads_total for e in sampled]
    yield DESCRIPTORS, (node, "open"), [e.open_descriptors for e in sampled]
    yield DESCRIPTORS, (node, "limit"), [e.descriptors_limit for e in sampled]


def _event_loop_lagged(node: str, lagged: list[EventLoopLagged]) -> Iterator[Column]:
    yield LOOP_LAG, (node,), [e.seconds for e in lagged]


GROUP_RULES: Final[dict[type[Event], GroupRule]] = {
    SystemSampled: _system_sampled,
    EventLoopLagged: _event_loop_lagged,
}
