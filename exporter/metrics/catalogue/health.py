"""The exporter's health checks."""

from typing import Final

from exporter.metrics.catalogue.family import CHECK_BUCKETS, counter, histogram

CHECKS: Final = ("events", "node_api", "engine", "journal", "render")

HEALTH_CHECKS: Final = counter(
    "health_check_total",
    "Health checks, by check and status.",
    "check",
    "status",
    check=CHECKS,
    status=("ok", "failed"),
)
HEALTH_CHECK_LATENCY: Final = histogram(
    "health_check_latency_seconds",
    CHECK_BUCKETS,
    "Duration of a health check in seconds.",
    "check",
    check=CHECKS,
)
