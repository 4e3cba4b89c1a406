"""Starts the project's processes as an operator would, and ends them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psutil

from node.demo import MODEL_PATH

REPOSITORY: Final = Path(__file__).resolve().parents[2]
NODE_ID: Final = "measured"
_READY_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.5
_STOP_SECONDS: Final = 10.0
_MESSAGE_BYTES: Final = 4096


@dataclass(frozen=True)
class Service:
    """A process that is ready, and the URL that it listens on."""

    process: psutil.Process
    host: str
    port: int

    def cpu_seconds(self) -> float:
        """Return its CPU time until now, without its children."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def run_node(
    directory: Path, model: Path, threads: int, flags: Sequence[str] = ()
) -> Iterator[Service]:
    """Run a node until the block ends; entered when the model is loaded."""
    own = [f"--model={model}", f"--threads={threads}", "--api-port=0", "--mesh-port=0"]
    with _run_service("node", directory, [*own, *flags]) as service:
        yield service


@contextmanager
def run_emitting_node(directory: Path, tokens_per_second: float) -> Iterator[Service]:
    """Run a node whose engine emits tokens at a rate; see `tests.bench.emitting_node`."""
    flags = [f"--model={MODEL_PATH}", "--api-port=0", "--mesh-port=0", str(tokens_per_second)]
    with _run_service("tests.bench.emitting_node", directory, flags) as service:
        yield service


@contextmanager
def run_exporter(directory: Path) -> Iterator[Service]:
    """Run an exporter until the block ends; entered when the exporter listens."""
    with _run_service("exporter", directory, ["--metrics-port=0"]) as service:
        yield service


@contextmanager
def run_module(module: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a module in a process of its own, with pipes of text for input and output."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process, ended(process):
        yield process


@contextmanager
def _run_service(name: str, directory: Path, flags: Sequence[str]) -> Iterator[Service]:
    path = directory / f"{name}.ready"
    common = [f"--node-id={NODE_ID}", f"--runtime-dir={directory}", f"--state-dir={directory}"]
    command = [sys.executable, "-m", name, *common, "--log-level=error", *flags]
    environment = os.environ | {"NOTIFY_SOCKET": str(path)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        notifications.bind(str(path))
        notifications.settimeout(_POLL_SECONDS)
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment)
        try:
            with ended(process):
                yield _wait_ready(notifications, process)
        finally:
            path.unlink()


@contextmanager
def ended(process: "subprocess.Popen[Any]") -> Iterator[None]:
    """End the process when the block ends, with `kill -9` if SIGTERM does not help."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(notifications: socket.socket, process: "subprocess.Popen[Any]") -> Service:
    """Wait until the process reports that it is ready, as in sd_notify(3).

    Raises:
        RuntimeError: It ended, or was not ready in time.
    """
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            message = notifications.recv(_MESSAGE_BYTES).decode()
        except TimeoutError:
            continue
        fields = dict(line.partition("=")[::2] for line in message.splitlines())
        if fields.get("READY") == "1":
            address = urlsplit(fields["X_URL"])
            return Service(psutil.Process(process.pid), address.hostname or "", address.port or 0)
    raise RuntimeError(f"process {process.pid} did not become ready; its stderr has the reason")
