"""The exporter's health checks."""

from typing import Final

from exporter.metrics.catalogue.family import CHECK_BUCKETS, counter, histogram

CHECKS: Final = ("events", "node_api", "engine", "journal", "render")

HEALTH_CHECKS: Final = counter(
    "health_check_total",
    "Health checks run, by check and status.",
    "check",
    "status",
    check=CHECKS,
    status=("ok", "failed"),
)
HEALTH_CHECK_LATENCY: Final = histogram(
    "health_check_latency_seconds",
    CHECK_BUCKETS,
    "Seconds that a health check took.",
    "check",
    check=CHECKS,
)
