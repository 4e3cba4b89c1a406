"""Real processes for tests: each is started here, and ended here by its id."""

import contextlib
import dataclasses
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

READY_SECONDS = 60.0
PREFIX = "distributed_llm_"


@dataclasses.dataclass
class Running:
    """A process of the project that said that it is ready."""

    process: "subprocess.Popen[str]"
    url: str
    log: Path

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, give the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Ask again and again until the answer is true, and give it."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)
    return answer


def free_port() -> int:
    """Give a port that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextlib.contextmanager
def start(command: list[str], directory: Path) -> Iterator[Running]:
    """Run `python -m …` until the block ends; entered when it is ready."""
    directory.mkdir(parents=True, exist_ok=True)
    notify = directory / f"notify-{time.monotonic_ns()}.sock"
    log = directory / f"{command[0]}.log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver, log.open("a") as stderr:
        receiver.bind(str(notify))
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=os.environ | {"NOTIFY_SOCKET": str(notify)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        try:
            assert select.select([receiver], [], [], READY_SECONDS)[0], log.read_text()
            message = receiver.recv(4096).decode()
            found = re.search(r"X_URL=(\S+)", message)
            yield Running(process, found[1] if found else "", log)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            if process.stdout:
                process.stdout.close()


class Pair:
    """Flags of a node and an exporter that share a runtime directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.flags = [
            f"--runtime-dir={directory / 'run'}",
            f"--state-dir={directory / 'state'}",
            "--node-id=node1",
        ]

    def node(self, *flags: str) -> contextlib.AbstractContextManager[Running]:
        """Start the node on a free port."""
        command = ["node", "--api-port=0", "--mesh-port=0", "--threads=1", *self.flags, *flags]
        return start(command, self.directory)

    def exporter(self, *flags: str) -> contextlib.AbstractContextManager[Running]:
        """Start the exporter on a free port."""
        return start(["exporter", "--metrics-port=0", *self.flags, *flags], self.directory)


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(url: str) -> Samples:
    """Read `/metrics` with the client library's own parser."""
    response = httpx.get(f"{url}/metrics")
    response.raise_for_status()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """Add up the samples of a name that have these labels; None where there is none."""
    wanted = set(labels.items())
    found = [v for (n, ls), v in samples.items() if n == PREFIX + name and wanted <= ls]
    return sum(found) if found else None


def stream(url: str, **body: Any) -> Iterator[dict[str, Any]]:
    """Give the chunks of a streamed completion as they come."""
    asked = {"prompt": "Once upon a time", "stream": True} | body
    with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=60) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                yield json.loads(line.removeprefix("data: "))


def text_of(chunks: list[dict[str, Any]]) -> str:
    """Join the text of a completion's chunks."""
    return "".join(choice["text"] for chunk in chunks for choice in chunk.get("choices", ()))
