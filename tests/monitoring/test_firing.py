"""Alerts seen firing for real: an engine stopped, a node stopped and killed, an exporter killed."""

import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import psutil
import pytest

from tests.monitoring.scene import configuration
from tests.monitoring.sources import RULES
from tests.processes import Pair, Running, free_port, stream, wait_for
from tests.prometheus import configured_prometheus, query

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not shutil.which("prometheus"),
        reason="needs prometheus on PATH (Debian: apt-get install prometheus)",
    ),
]


def hasty_rules(directory: Path) -> list[str]:
    """Write a copy of the rules that does not wait long; gives its files."""
    directory.mkdir()
    files = []
    for file in RULES:
        text = re.sub(r"( +(?:for|keep_firing_for)): \d+[sm]", r"\1: 3s", file.read_text())
        text = text.replace("engine_silent_seconds > 30", "engine_silent_seconds > 3")
        (directory / file.name).write_text(text)
        files.append(str(directory / file.name))
    return files


class Watched:
    """A node and an exporter that a Prometheus with hasty rules looks at."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.pair = Pair(directory)
        port = free_port()
        self._stack = stack
        self.exporter = self.start(self.pair.exporter(f"--metrics-port={port}"))
        self.node = self.start(self.pair.node())
        config = configuration(f"127.0.0.1:{port}", hasty_rules(directory / "rules"))
        self._url = stack.enter_context(configured_prometheus(directory / "prometheus", config))
        wait_for(lambda: query(self._url, "distributed_llm_node_up == 1"))

    def start(self, process: AbstractContextManager[Running]) -> Running:
        """Start a process that ends with the test at the latest."""
        return self._stack.enter_context(process)

    def firing(self) -> set[str]:
        """Name what fires now."""
        return {
            row["metric"]["alertname"] for row in query(self._url, 'ALERTS{alertstate="firing"}')
        }

    def ask(self, expression: str) -> bool:
        """Tell whether a query has an answer."""
        return bool(query(self._url, expression))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """What the tests of this module do harm to, one after the other."""
    with ExitStack() as stack:
        yield Watched(tmp_path_factory.mktemp("firing"), stack)


def test_stopped_engine_fires_engine_stalled(watched: Watched) -> None:
    """SIGSTOP to an engine at work: EngineStalled fires, and ends when the engine goes on."""
    (engine,) = psutil.Process(watched.node.process.pid).children()
    began, has_fired = threading.Event(), threading.Event()

    def read() -> None:
        while not has_fired.is_set():
            for _ in stream(watched.node.url, max_tokens=400):
                began.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert began.wait(20)
    os.kill(engine.pid, signal.SIGSTOP)
    try:
        wait_for(lambda: "EngineStalled" in watched.firing(), 30)
    finally:
        has_fired.set()
        os.kill(engine.pid, signal.SIGCONT)
    reader.join(30)
    wait_for(lambda: "EngineStalled" not in watched.firing(), 30)


def test_stopped_node_fires_nothing(watched: Watched) -> None:
    """A clean stop is told from a crash: it is seen, and NodeDown stays quiet."""
    assert watched.node.end() == 0
    wait_for(lambda: watched.ask("distributed_llm_node_departed == 1"))
    # Long enough for a hasty NodeDown, had it been pending since the node was seen to be away.
    wait_for(lambda: watched.ask("sum_over_time(distributed_llm_node_departed[1m]) > 5"))
    assert not watched.firing() & {"NodeDown", "ExporterDown", "MetricsAbsent"}


def test_killed_node_fires_node_down(watched: Watched) -> None:
    """SIGKILL to a node: NodeDown fires, though it was stopped cleanly just before."""
    watched.node = watched.start(watched.pair.node())
    wait_for(lambda: watched.ask("distributed_llm_node_up == 1"))
    assert "NodeDown" not in watched.firing()
    watched.node.end(signal.SIGKILL)
    wait_for(lambda: "NodeDown" in watched.firing(), 30)
    assert "ExporterDown" not in watched.firing()


def test_killed_exporter_fires_exporter_down(watched: Watched) -> None:
    """SIGKILL to an exporter: ExporterDown fires, and of its node nothing is said any more."""
    watched.exporter.end(signal.SIGKILL)
    wait_for(lambda: "ExporterDown" in watched.firing(), 30)
    wait_for(lambda: "NodeDown" not in watched.firing(), 30)
