"""Scrapes an exporter continuously, and records every counter that decreased or vanished."""

import http.client
import threading
from typing import Final, Self

from tests.chaos.rows import Row
from tests.processes import PREFIX

_COUNTER_SUFFIXES: Final = ("_total", "_bucket", "_count", "_sum")
_TIMEOUT_SECONDS: Final = 10.0

Series = dict[str, float]


class Watch:
    """Scrapes in a thread of its own while its block runs.

    Args:
        port: The port of the exporter, which may be down at times.
        every_seconds: Pause between two scrapes.
    """

    def __init__(self, port: int, every_seconds: float = 0.2) -> None:
        self.scrapes = 0
        self.steps_back: list[str] = []
        self.negative: list[str] = []
        self.longest_lag_seconds = 0.0
        """The highest event lag seen; set it to 0 to measure from then on."""
        self._port = port
        self._every_seconds = every_seconds
        self._last: Series = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def row(self) -> Row:
        """Return the row of the promise that no counter decreases."""
        measured = f"{self.scrapes} scrapes, {len(self.steps_back)} steps back"
        if self.steps_back:
            measured += f", first {self.steps_back[0]}"
        held = self.scrapes > 0 and not self.steps_back
        return Row("no counter decreases between two scrapes", measured, held)

    def _run(self) -> None:
        while not self._stop.wait(self._every_seconds):
            try:
                shown = read_series(self._port)
            except (OSError, http.client.HTTPException):
                continue  # killed, perhaps in the middle of its response
            self._compare(shown)
            self._last = shown
            self.scrapes += 1

    def _compare(self, shown: Series) -> None:
        self.negative += [name for name, number in shown.items() if number < 0]
        for name, before in self._last.items():
            after = shown.get(name)
            if is_counter(name) and (after is None or after < before):
                self.steps_back.append(f"{name} {before:g} to {after}")
        lags = (v for name, v in shown.items() if "exporter_event_lag_seconds{" in name)
        self.longest_lag_seconds = max(self.longest_lag_seconds, *lags, 0.0)


def read_series(port: int) -> Series:
    """Read `/metrics`: each series with its value.

    Raises:
        OSError: The port is closed, or the connection broke.
        http.client.HTTPException: The response is not complete.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(number) for name, _, number in lines}


def is_counter(series: str) -> bool:
    """Return whether a series is a counter of ours, by its name.

    Counters of the library's collectors, such as `process_*`, restart with their process.
    """
    return series.startswith(PREFIX) and series.partition("{")[0].endswith(_COUNTER_SUFFIXES)
