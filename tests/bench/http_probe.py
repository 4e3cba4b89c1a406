"""Measures the shortest responses of a node, one after another over one connection."""

import http.client
import sys
import time
from typing import Final

from tests.bench import loop_probe

_TIMEOUT_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 0.005


def main(seconds: float, host: str, port: int) -> list[float]:
    """Return the seconds of each response."""
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)
    waits: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        connection.request("GET", "/v1/models")
        connection.getresponse().read()
        waits.append(time.perf_counter() - began)
        time.sleep(_PAUSE_SECONDS)
    connection.close()
    return waits


if __name__ == "__main__":
    loop_probe.write(main(float(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
