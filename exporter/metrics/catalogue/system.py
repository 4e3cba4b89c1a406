"""What a node's process and its host use, and the node's certificates."""

from typing import Final, get_args

from exporter.metrics.catalogue.family import NODE, counter, gauge, histogram
from shared.events.node import CertificateUse

_LAG: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 5)
_SCOPES: Final = ("node", "engine")

MEMORY: Final = gauge(
    "system_memory_usage_bytes",
    "Memory: resident of node and engine, of the host available, total and swapped out.",
    *NODE,
    "memory_type",
    memory_type=("rss", "engine_rss", "available", "total", "swap"),
)
CPU: Final = gauge(
    "system_cpu_usage_percent",
    "CPU use in percent: of one core for node and engine, of all cores for the host.",
    *NODE,
    "scope",
    scope=("node", "engine", "host"),
)
TASKS: Final = gauge("system_goroutines", "Trio tasks of the node.", *NODE)
CPU_SECONDS: Final = counter(
    "system_cpu_seconds_total", "CPU seconds used.", *NODE, "scope", total=True, scope=_SCOPES
)
MAJOR_FAULTS: Final = counter(
    "system_major_page_faults_total",
    "Page faults that read from disk.",
    *NODE,
    "scope",
    total=True,
    scope=_SCOPES,
)
LOOP_LAG: Final = histogram(
    "runtime_event_loop_lag_seconds", _LAG, "Delay of the node's event loop in seconds.", *NODE
)
WORKER_THREADS: Final = gauge(
    "runtime_worker_threads",
    "Worker threads of the node: busy, and their limit.",
    *NODE,
    "state",
    state=("busy", "total"),
)
DESCRIPTORS: Final = gauge(
    "system_file_descriptors",
    "File descriptors of the node's process: open, and their limit.",
    *NODE,
    "state",
    state=("open", "limit"),
)
CERTIFICATE_EXPIRY: Final = gauge(
    "tls_certificate_expiry_timestamp_seconds",
    "Unix time at which the certificate in use expires, in seconds.",
    *NODE,
    "use",
    use=get_args(CertificateUse),
)
