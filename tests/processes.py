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
from collections.abc import Callable, Iterator, Mapping
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
def start(
    command: list[str], directory: Path, *, environment: Mapping[str, str] = os.environ
) -> Iterator[Running]:
    """Run `python -m …` until the block ends; entered when it is ready."""
    directory.mkdir(parents=True, exist_ok=True)
    notify = directory / f"notify-{time.monotonic_ns()}.sock"
    log = directory / f"{command[0]}.log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver, log.open("a") as stderr:
        receiver.bind(str(notify))
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**environment, "NOTIFY_SOCKET": str(notify)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        try:
            yield Running(process, _wait_ready(process, receiver, log), log)
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


def _wait_ready(process: "subprocess.Popen[str]", receiver: socket.socket, log: Path) -> str:
    """Wait until a process says that it is ready, and give the URL that it says with it."""
    deadline = time.monotonic() + READY_SECONDS
    message = ""
    while "READY=1" not in message:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        if select.select([receiver], [], [], 0.2)[0]:
            message = receiver.recv(4096).decode()
    found = re.search(r"X_URL=(\S+)", message)
    return found[1] if found else ""


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


def scrape(url: str, headers: Mapping[str, str] | None = None) -> Samples:
    """Read `/metrics` with the client library's own parser."""
    response = httpx.get(f"{url}/metrics", headers=headers)
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
