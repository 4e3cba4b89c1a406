"""The stage of a fault: emitters and an exporter that can be killed and restarted."""

import contextlib
import json
import os
import signal
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any, Final, Self

from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.processes import READY_SECONDS, Emitter, Process
from tests.processes import PREFIX, Samples, value, wait_for

NODE: Final = "node1"
RATE: Final = 5000.0
_ports = count(21_000 + os.getpid() % 10_000)


def quiet_port() -> int:
    """Return a free port below those that the kernel gives to clients.

    No client's connection can take such a port while the exporter is down.
    """
    for port in _ports:
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port
    raise AssertionError


class Ground:
    """A runtime and a state directory, an exporter on a port of its own, and emitters.

    Ends every process that it started when its block is left.

    Args:
        directory: Holds all files; created if it is missing.
        state: The state directory; by default it is in `directory`.
    """

    def __init__(self, directory: Path, state: Path | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.state = state or directory / "state"
        self.runtime = directory / "run"
        self.port = quiet_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.exporter_log = directory / "exporter.log"
        self._processes: list[Process] = []
        self._numbers = count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.is_running:
                process.send(signal.SIGKILL)
                process.process.wait()

    @property
    def exporter(self) -> Process:
        """Return the exporter that was started last."""
        return next(p for p in reversed(self._processes) if p.log == self.exporter_log)

    def begin_exporter(self, environment: Mapping[str, str] | None = None) -> Process:
        """Start the exporter without waiting for it."""
        command = [
            "exporter",
            f"--metrics-port={self.port}",
            f"--runtime-dir={self.runtime}",
            f"--state-dir={self.state}",
        ]
        process = Process(command, self.exporter_log, environment)
        self._processes.append(process)
        return process

    def start_exporter(self, environment: Mapping[str, str] | None = None) -> None:
        """Start the exporter and wait until it answers."""
        self.begin_exporter(environment)
        self.wait_ready()

    def restart_exporter(self, environment: Mapping[str, str] | None = None) -> None:
        """Kill the exporter, restart it at once, and wait until it answers."""
        self.exporter.end(signal.SIGKILL)
        self.start_exporter(environment)

    def wait_ready(self) -> None:
        """Wait until the exporter answers."""
        wait_for(self.answers, READY_SECONDS)

    def answers(self) -> bool:
        """Return whether the exporter answers."""
        assert self.exporter.is_running, self.exporter_log.read_text()[-2000:]
        return self.get("/livez") is not None

    def emitter(self, node_id: str = NODE, rate: float = RATE, *flags: str) -> Emitter:
        """Start an emitter and wait until it emits."""
        truth = self.directory / f"truth-{next(self._numbers)}.json"
        command = [
            "tests.chaos.emitter",
            f"--node-id={node_id}",
            f"--runtime-dir={self.runtime}",
            f"--truth={truth}",
            f"--rate={rate}",
            *flags,
        ]
        emitter = Emitter(node_id, command, self.directory / "emitter.log", truth)
        self._processes.append(emitter)
        wait_for(lambda: emitter.truth().emitted, READY_SECONDS)
        return emitter

    def get(self, path: str) -> bytes | None:
        """Request a path of the exporter; return the body of any status, None without an answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as response:
                body: bytes = response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.read()
        except (OSError, urllib.error.URLError):
            return None
        return body

    def health(self) -> dict[str, Any]:
        """Return the body of `/health`."""
        body: dict[str, Any] = json.loads(self.get("/health") or b"{}")
        return body

    def scrape(self, *names: str) -> Samples:
        """Read some metrics by name from one scrape."""
        asked = urllib.parse.urlencode({"name[]": [PREFIX + name for name in names]}, doseq=True)
        shown = self.get(f"/metrics?{asked}")
        assert shown is not None, "the exporter does not answer"
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(shown.decode())
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        """Return the sum of the samples of a name that have these labels."""
        return value(self.scrape(name), name, **labels)

    def applied_kinds(self, node_id: str) -> Counter[str]:
        """Return the number of counted events by kind."""
        found: Counter[str] = Counter()
        for (_, labels), number in self.scrape("exporter_events_total").items():
            values = dict(labels)
            if values["node_id"] == node_id:
                found[values["event"]] += int(number)
        return found

    def wait_caught_up(self, emitter: Emitter, before: int = 0, seconds: float = 30.0) -> None:
        """Wait until the exporter has counted all that an emitter has emitted by now."""
        due = before + emitter.truth().emitted - emitter.truth().dropped.total()
        wait_for(lambda: self.applied_kinds(emitter.node_id).total() >= due, seconds)

    def tracebacks(self) -> int:
        """Return the number of tracebacks in the logs of all processes."""
        return sum(log.read_text().count("Traceback") for log in self.directory.glob("*.log"))
