"""Starts real processes for tests and ends each of them by its process id."""

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
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.patience import Allowance, patient

READY_SECONDS = 60.0
END_SECONDS = 60.0
_LOOK_SECONDS = 0.02
_reserved: list[socket.socket] = []
PREFIX = "distributed_llm_"


def command_of(process: psutil.Process) -> list[str]:
    """Return a process's command line; empty if it has ended, reaped or not."""
    with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, too
        return process.cmdline()
    return []


def name_of(process: psutil.Process) -> str:
    """Return a process's name; empty if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


@dataclasses.dataclass
class Running:
    """A process of the project that has reported that it is ready."""

    process: "subprocess.Popen[str]"
    url: str
    log: Path

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(patient(END_SECONDS))


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Call a function until its result is true, and return that result.

    Raises:
        AssertionError: That took longer than it may on an idle machine, this one's load allowed
            for.
    """
    allowance = Allowance(seconds)
    while not (answer := condition()):
        assert not allowance.is_spent(), f"not within {seconds} s"
        time.sleep(_LOOK_SECONDS)
    return answer


def free_port() -> int:
    """Return a free port, reserved for the caller while the tests run.

    A socket stays bound to the port. A listener can still use it: all of them, including trio, nng
    and Go, set SO_REUSEADDR, which lets them share the port on Linux.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    _reserved.append(reserved)
    port: int = reserved.getsockname()[1]
    return port


@contextlib.contextmanager
def start(
    command: list[str], directory: Path, *, environment: Mapping[str, str] = os.environ
) -> Iterator[Running]:
    """Run `python -m …` until the block ends; entered when it is ready.

    The block ends with `kill -9`, because a node that stops waits two seconds for an exporter that
    is gone. To test a clean end, call `Running.end`.
    """
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
        with process:
            try:
                yield Running(process, _wait_ready(process, receiver, log), log)
            finally:
                process.kill()


def _wait_ready(process: "subprocess.Popen[str]", receiver: socket.socket, log: Path) -> str:
    """Wait until a process reports that it is ready; return the URL that it reports."""
    message = ""
    while "READY=1" not in message:  # its first message may be that it is alive
        wait_for(lambda: _has_message(receiver) or process.poll() is not None, READY_SECONDS)
        assert process.poll() is None, log.read_text()
        message = receiver.recv(4096).decode()
    found = re.search(r"X_URL=(\S+)", message)
    return found[1] if found else ""


def _has_message(receiver: socket.socket) -> bool:
    return bool(select.select([receiver], [], [], 0)[0])


class Pair:
    """Return flags for a node and an exporter that share a runtime directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.flags = [
            f"--runtime-dir={directory / 'run'}",
            f"--state-dir={directory / 'state'}",
            "--node-id=node1",
        ]

    def node(self, *flags: str) -> contextlib.AbstractContextManager[Running]:
        """Start a node on a free port."""
        command = ["node", "--api-port=0", "--mesh-port=0", "--threads=1", *self.flags, *flags]
        return start(command, self.directory)

    def exporter(self, *flags: str) -> contextlib.AbstractContextManager[Running]:
        """Start an exporter on a free port."""
        return start(["exporter", "--metrics-port=0", *self.flags, *flags], self.directory)


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(url: str, headers: Mapping[str, str] | None = None) -> Samples:
    """Read `/metrics` with the parser of prometheus_client."""
    response = httpx.get(f"{url}/metrics", headers=headers)
    response.raise_for_status()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """Return the sum of the samples of a name that have these labels; None if there are none."""
    wanted = set(labels.items())
    found = [v for (n, ls), v in samples.items() if n == PREFIX + name and wanted <= ls]
    return sum(found) if found else None


def stream(url: str, **body: Any) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a streamed completion."""
    asked = {"prompt": "Once upon a time", "stream": True} | body
    # An engine that was killed comes back before the next token.
    patience = patient(END_SECONDS)
    with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=patience) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                yield json.loads(line.removeprefix("data: "))


def text_of(chunks: list[dict[str, Any]]) -> str:
    """Return the text of a completion's chunks."""
    return "".join(choice["text"] for chunk in chunks for choice in chunk.get("choices", ()))
