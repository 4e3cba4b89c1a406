"""The processes as services of systemd: ready, alive and stopping, told to a real socket."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import wait_for

WATCHDOG_MICROSECONDS = 600_000
PING_SECONDS = WATCHDOG_MICROSECONDS / 1e6 / 2
COMMANDS = {
    "node": ["node", "--api-port=0", "--mesh-port=0", "--threads=1"],
    "exporter": ["exporter", "--metrics-port=0"],
    "node.agent": [
        "node.agent",
        "--api-port=0",
        "--mesh-port=0",
        "--metrics-port=0",
        "--threads=1",
    ],
}

pytestmark = pytest.mark.slow


class Manager:
    """What systemd does with a service of `Type=notify`: it listens."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver
        self.heard: list[str] = []

    def listen(self, seconds: float) -> bool:
        """Take every message that comes within a time; whether there was any."""
        came = False
        while select.select([self._receiver], [], [], 0 if came else seconds)[0]:
            self.heard += self._receiver.recv(4096).decode().splitlines()
            came = True
        return came

    def wait(self, line: str, count: int = 1) -> None:
        """Listen until a line was heard so often from now on."""
        self.heard.clear()
        wait_for(lambda: self.listen(0.2) and self.heard.count(line) >= count, seconds=60)


@contextlib.contextmanager
def service(
    directory: Path, command: list[str], **environment: str
) -> Iterator[tuple["subprocess.Popen[bytes]", Manager]]:
    """Run a command as systemd would until the block ends."""
    flags = [f"--runtime-dir={directory}/run", f"--state-dir={directory}/state", "--node-id=n1"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(directory / "notify"))
        variables = {"NOTIFY_SOCKET": str(directory / "notify")} | environment
        process = subprocess.Popen(
            [sys.executable, "-m", *command, *flags],
            env=os.environ | variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield process, Manager(receiver)
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(timeout=40)
            finally:
                process.kill()


@pytest.mark.parametrize("name", COMMANDS)
def test_watchdog_hears_a_loop_that_turns_and_no_other(tmp_path: Path, name: str) -> None:
    """Ready once, then a ping every half of its time; none while the process stands still."""
    variables = {"WATCHDOG_USEC": str(WATCHDOG_MICROSECONDS)}
    with service(tmp_path, COMMANDS[name], **variables) as (process, manager):
        manager.wait("READY=1")
        manager.wait("WATCHDOG=1", count=3)
        process.send_signal(signal.SIGSTOP)
        manager.listen(0)  # what was under way
        assert not manager.listen(4 * PING_SECONDS)
        process.send_signal(signal.SIGCONT)
        manager.wait("WATCHDOG=1", count=2)
        process.terminate()
        manager.wait("STOPPING=1")
        assert process.wait(timeout=40) == 0


def test_watchdog_that_waits_for_another_process_is_left_alone(tmp_path: Path) -> None:
    """What was started under a service inherits the variables and does not answer for it."""
    variables = {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": str(os.getpid())}
    with service(tmp_path, COMMANDS["exporter"], **variables) as (_, manager):
        manager.wait("READY=1")
        assert not manager.listen(1)
        assert "WATCHDOG=1" not in manager.heard
