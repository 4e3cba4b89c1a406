"""Faults of the exporter do not affect the clients of a real node."""

import contextlib
import http.client
import json
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from tests.chaos.ground import NODE, Ground
from tests.chaos.proof import log_row
from tests.chaos.rows import Row
from tests.chaos.watch import Watch
from tests.processes import Running, start, wait_for

GONE_SECONDS: Final = 3.0
_TIMEOUT_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 0.02
_BODY: Final = json.dumps({"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0})


class Client:
    """Requests short completions from a node, one after the other, until its block ends.

    Args:
        url: The URL of the node's API.
    """

    def __init__(self, url: str) -> None:
        self.seconds: list[float] = []
        """The duration of each request."""
        self.failures: list[str] = []
        self._address = url.removeprefix("http://")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="client")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=_TIMEOUT_SECONDS)
        with contextlib.closing(connection):
            while not self._stop.wait(_PAUSE_SECONDS):
                began = time.monotonic()
                connection.request("POST", "/v1/completions", _BODY)
                response = connection.getresponse()
                response.read()
                self.seconds.append(time.monotonic() - began)
                if response.status != http.client.OK:
                    self.failures.append(f"status {response.status}")


def exporter_away(directory: Path, kills: int = 5, stopped_seconds: float = 10.0) -> list[Row]:
    """Kill and stop the exporter of a serving node, and kill the node at the end."""
    with (
        Ground(directory) as ground,
        Watch(ground.port) as watch,
        _real_node(ground) as node,
    ):
        ground.start_exporter()
        with Client(node.url) as client:
            time.sleep(kills)
            calm = len(client.seconds)
            for _ in range(kills):
                ground.restart_exporter()
                time.sleep(1)
            ground.exporter.send(signal.SIGSTOP)
            time.sleep(stopped_seconds)
            ground.exporter.send(signal.SIGCONT)
        asked = len(client.seconds)
        wait_for(lambda: ground.value("inference_requests_total", status="ok") == asked)
        rows = [
            Row(
                "a real node answers every request",
                f"{asked} asked, {len(client.failures)} failed; median "
                f"{_median(client.seconds[:calm])} before, {_median(client.seconds[calm:])} during",
                asked > calm > 0 and not client.failures,
            ),
            Row(
                "each is counted once",
                f"{ground.value('inference_requests_total', status='ok')} of {asked}",
                ground.value("inference_requests_total") == asked
                and ground.value("telemetry_events_lost") == 0,
            ),
        ]
        return [*rows, _gone_row(ground, node), watch.row(), log_row(ground)]


@contextlib.contextmanager
def _real_node(ground: Ground) -> Iterator[Running]:
    flags = [f"--node-id={NODE}", "--api-port=0", "--mesh-port=0", "--threads=1"]
    command = ["node", *flags, f"--runtime-dir={ground.runtime}"]
    with start(command, ground.directory) as node:
        yield node


def _gone_row(ground: Ground, node: Running) -> Row:
    """Kill the node and check what it leaves behind."""
    node.end(signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: ground.value("node_up", node_id=NODE) == 0)
    seconds = time.monotonic() - killed
    levels = ground.value("system_memory_usage_bytes", node_id=NODE)
    return Row(
        f"killed: node_up 0 within {GONE_SECONDS:g} s, its levels gone",
        f"{seconds:.2f} s, levels {'gone' if levels is None else 'there'}",
        seconds <= GONE_SECONDS and levels is None,
    )


def _median(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f} ms"
