"""The processes that a fault starts, and the truth that an emitter leaves."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
READY_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Truth:
    """The number of events emitted by kind and dropped by reason."""

    session: str
    kinds: Counter[str]
    dropped: Counter[str]

    @property
    def emitted(self) -> int:
        """Return the number of events, including the dropped ones."""
        return self.kinds.total()

    def __add__(self, other: "Truth") -> "Truth":
        return Truth("", self.kinds + other.kinds, self.dropped + other.dropped)


NOTHING: Final = Truth("", Counter(), Counter())


class Process:
    """A process of the project with its log.

    Args:
        command: The arguments of `python -m`.
        log: The file to append its stderr to.
        environment: Variables to add to this process's own.
    """

    def __init__(
        self, command: list[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        with log.open("a") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=REPOSITORY,
                env=os.environ | dict(environment or {}),
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Return whether it is still running."""
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal, wait for its end, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=READY_SECONDS)


class Emitter(Process):
    """A running `tests.chaos.emitter`.

    Args:
        node_id: The node that it emits as.
        command: As for `Process`.
        log: As for `Process`.
        truth: The file in which it records the truth.
    """

    def __init__(self, node_id: str, command: list[str], log: Path, truth: Path) -> None:
        super().__init__(command, log)
        self.node_id = node_id
        self._truth = truth

    def truth(self) -> Truth:
        """Return what it has emitted until now or until its death."""
        text = self._truth.read_text() if self._truth.exists() else ""
        if not text:
            return NOTHING
        found = json.loads(text)
        return Truth(found["session"], Counter(found["kinds"]), Counter(found["dropped"]))

    def seconds(self) -> list[dict[str, float]]:
        """Return its seconds: the end of each, the events until then, and the longest gap."""
        lines = self._truth.with_suffix(".seconds").read_text().splitlines()
        return [json.loads(line) for line in lines]
