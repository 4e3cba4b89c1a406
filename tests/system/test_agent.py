"""The agent: one command, a story, its metrics, and both processes kept alive."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.agents import Agent, agent
from tests.processes import scrape, value, wait_for


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One agent for the tests that do not harm it."""
    with agent(tmp_path_factory.mktemp("agent")) as started:
        yield started


@pytest.mark.slow
def test_printed_curl_streams_a_story(running: Agent) -> None:
    """The command that the agent prints to try works as it stands."""
    command = running.welcome[running.welcome.index("curl") :].strip()
    told = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)  # noqa: PLW1510
    pieces = re.findall(r'"text":"([^"]*)', told.stdout)
    assert told.returncode == 0
    assert told.stdout.rstrip().endswith("data: [DONE]")
    assert len(pieces) > 20


def test_request_is_counted_within_two_seconds(running: Agent) -> None:
    """A request is in the metrics within 2 s of its end."""
    body = {"prompt": "Once upon a time", "max_tokens": 5}
    asked = httpx.post(f"{running.api}/v1/completions", json=body)
    request_id = asked.headers["x-request-id"]
    openmetrics = {"Accept": "application/openmetrics-text"}
    wait_for(
        lambda: request_id in httpx.get(f"{running.metrics}/metrics", headers=openmetrics).text,
        seconds=2,
    )
    assert (value(scrape(running.metrics), "inference_requests_total", status="ok") or 0) >= 1


def test_health_answers_with_each_check(running: Agent) -> None:
    """`/health` is 200 with every check once the node is online."""
    response = wait_for(lambda: _ok(f"{running.metrics}/health"))
    # A real request takes longer than a refused connection.
    assert response.json()["checks"]["node_api"]["latency_seconds"] > 1e-4
    assert response.json()["nodes"]["node1"]["up"] is True
    assert {"events", "node_api", "render"} <= set(response.json()["checks"])


def _ok(url: str) -> httpx.Response | None:
    response = httpx.get(url)
    return response if response.status_code == 200 else None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["node", "exporter"])
def test_killed_process_is_back(tmp_path: Path, name: str) -> None:
    """A process killed with -9 is restarted, and the node is served and counted as before."""
    with agent(tmp_path) as started:
        victim = started.pid_of(name)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: started.pid_of(name) != victim)
        # The free ports are new ones: they are in the log of the new process.
        wait_for(
            lambda: (
                started.log.read_text().count("is ready" if name == "node" else "metrics on") == 2
            )
        )
        text = started.log.read_text()
        api = re.findall(r"API on (\S+)", text)[-1]
        metrics = re.findall(r"metrics on (\S+)/metrics", text)[-1]
        httpx.post(
            f"{api}/v1/completions", json={"prompt": "Once", "max_tokens": 3}
        ).raise_for_status()
        wait_for(lambda: value(scrape(metrics), "node_up", node_id="node1") == 1)
        wait_for(
            lambda: (value(scrape(metrics), "inference_requests_total", status="ok") or 0) >= 1
        )


@pytest.mark.slow
def test_sigterm_stops_both_cleanly(tmp_path: Path) -> None:
    """SIGTERM ends the agent with code 0 and both processes with it."""
    with agent(tmp_path) as started:
        children = [started.pid_of("node"), started.pid_of("exporter")]
        began = time.monotonic()
        started.process.terminate()
        assert started.process.wait(timeout=30) == 0
        assert time.monotonic() - began < 15
        for pid in children:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        assert "said goodbye" in started.log.read_text()


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--no-such-flag"], 2, "--no-such-flag"),
        (["--api-port=many"], 2, "--api-port"),
        (["--seed-nodes=nowhere"], 2, "--seed-nodes"),
        (["--host=nowhere"], 2, "--host"),
        (["--node-id=a b"], 2, "--node-id"),
        (["--model=/no/such/file.gguf"], 1, "/no/such/file.gguf"),
        (["--runtime-dir=/dev/null/here"], 1, "--runtime-dir"),
    ],
)
def test_bad_setting_is_one_line(tmp_path: Path, flags: list[str], code: int, says: str) -> None:
    """A setting that cannot work is refused in one line that names it, without a traceback."""
    given = [
        f"--runtime-dir={tmp_path}/run",
        "--api-port=0",
        "--mesh-port=0",
        "--metrics-port=0",
        *flags,
    ]
    command = [sys.executable, "-m", "node.agent", "--log-level=error", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)  # noqa: PLW1510
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert says in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["api", pytest.param("metrics", marks=pytest.mark.slow)])
def test_taken_port_is_one_line(running: Agent, tmp_path: Path, name: str) -> None:
    """A port in use, of the API or of the metrics, is reported with the flag that changes it."""
    port = getattr(running, name).rpartition(":")[2]
    ports = {"api": "0", "mesh": "0", "metrics": "0"} | {name: port}
    given = [f"--runtime-dir={tmp_path}/run", *(f"--{of}-port={at}" for of, at in ports.items())]
    command = [sys.executable, "-m", "node.agent", "--log-level=error", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)  # noqa: PLW1510
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"--{name}-port" in done.stderr
    assert port in done.stderr
