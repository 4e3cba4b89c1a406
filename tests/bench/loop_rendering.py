"""Runs the event loop of `loop_probe` with prometheus_client rendering in it.

This is what a server does that serves its own /metrics from its event loop: once a second it
renders the series of as many routes as `stall` gives the exporter.
"""

import sys
from typing import Final

import trio
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from tests.bench import loop_probe

_BETWEEN_SCRAPES_SECONDS: Final = 1.0


async def main(seconds: float, routes: int) -> list[float]:
    """Return the lateness of each tick in seconds."""
    registry = _fill(routes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_render, registry)
        lateness = await loop_probe.watch(seconds)
        nursery.cancel_scope.cancel()
    return lateness


async def _render(registry: CollectorRegistry) -> None:
    """Render once a second. Runs until cancelled."""
    while True:
        generate_latest(registry)
        await trio.sleep(_BETWEEN_SCRAPES_SECONDS)


def _fill(routes: int) -> CollectorRegistry:
    disable_created_metrics()  # type: ignore[no-untyped-call] # nor does the exporter show any
    registry = CollectorRegistry()
    labels = ("node_id", "route", "method", "status")
    requests = Counter("requests", "Requests.", labels, registry=registry)
    duration = Histogram("duration_seconds", "Seconds.", labels, registry=registry)
    for route in range(routes):
        values = ("node", f"/route/{route}", "GET", "200")
        requests.labels(*values).inc()
        duration.labels(*values).observe(0.1)
    return registry


if __name__ == "__main__":
    loop_probe.write(trio.run(main, float(sys.argv[1]), int(sys.argv[2])))
