"""Runs a real agent with its processes on free ports."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

COMMAND = [sys.executable, "-m", "node.agent"]


def flags(directory: Path) -> list[str]:
    """Return the flags of an agent that shares nothing with other agents."""
    return [
        "--node-id=node1",
        "--api-port=0",
        "--mesh-port=0",
        "--metrics-port=0",
        "--threads=1",
        f"--runtime-dir={directory}/run",
        f"--state-dir={directory}/state",
    ]


@dataclass
class Agent:
    """A running agent and its output."""

    process: "subprocess.Popen[str]"
    welcome: str
    log: Path

    @property
    def api(self) -> str:
        """URL of the node's API."""
        return self._url("API").removesuffix("/v1")

    @property
    def metrics(self) -> str:
        """URL of the exporter."""
        return self._url("metrics").removesuffix("/metrics")

    def _url(self, name: str) -> str:
        found = re.search(rf"{name}\s+(http\S+)", self.welcome)
        assert found
        return found[1]

    def pid_of(self, name: str) -> int:
        """Return the newest process id that the agent logged for a process."""
        return int(re.findall(rf"the {name} is process (\d+)", self.log.read_text())[-1])

    def descendants(self) -> list[psutil.Process]:
        """Return the process ids of node, exporter and engines."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        assert len(found) >= 3
        return found


@contextlib.contextmanager
def agent(
    directory: Path, *more: str, environment: Mapping[str, str] | None = None
) -> Iterator[Agent]:
    """Run the agent on free ports until the block ends; entered when it has printed its welcome."""
    log = directory / "agent.log"
    with log.open("a") as stderr:
        process = subprocess.Popen(
            [*COMMAND, *flags(directory), *more],
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        assert process.stdout is not None
        try:
            welcome = ""
            while "curl" not in welcome:
                line = process.stdout.readline()
                assert line, log.read_text()
                welcome += line
            yield Agent(process, welcome, log)
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            finally:
                process.kill()
                process.stdout.close()
