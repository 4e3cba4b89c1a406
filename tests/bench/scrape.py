"""Scrapes an exporter as Prometheus does, and reads the values that the benchmarks need."""

import http.client
import re
import time
from typing import Final, NamedTuple

from tests.bench.processes import NODE_ID, Service

_TIMEOUT_SECONDS: Final = 30.0
_LAG: Final = re.compile(
    rb'runtime_event_loop_lag_seconds_bucket\{le="([^"]+)",node_id="%b"\} (\S+)' % NODE_ID.encode()
)


class Scrape(NamedTuple):
    """One response of `/metrics`."""

    body: bytes
    seconds: float

    @property
    def series(self) -> int:
        """Return the number of series."""
        return sum(not line.startswith(b"#") for line in self.body.splitlines())

    @property
    def lag_counts(self) -> dict[str, float]:
        """Return the buckets of the node's loop lag: sample counts by upper bound in seconds."""
        return {bound.decode(): float(count) for bound, count in _LAG.findall(self.body)}


def scrape(exporter: Service) -> Scrape:
    """Scrape every series once."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection(exporter.host, exporter.port, timeout=_TIMEOUT_SECONDS)
    connection.request("GET", "/metrics")
    body = connection.getresponse().read()
    connection.close()
    return Scrape(body, time.perf_counter() - began)
