"""One TOML file configures an agent and both of its processes."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.processes import Running, scrape, start, value, wait_for

CONFIG = """
node-id = "rack-7"
runtime-dir = "{directory}/run"
state-dir = "{directory}/state"

[node]
api-port = 0
mesh-port = 0
threads = 1
queue = 9

[exporter]
metrics-port = 0
series-budget = 500
"""


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """An agent with settings from a file, one from its environment and one flag."""
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(directory=tmp_path))
    monkeypatch.setenv("DISTRIBUTED_LLM_CONFIG", str(config))
    monkeypatch.setenv("DISTRIBUTED_LLM_SERIES_BUDGET", "600")
    with start(["node.agent", "--queue=64"], tmp_path) as running:
        yield running


def test_file_environment_and_flags_reach_both_processes(agent: Running) -> None:
    """The agent logs the sources of its settings and passes them to its processes as flags."""
    assert httpx.get(f"{agent.url}/cluster").json()["node_id"] == "rack-7"
    log = agent.log.read_text()
    of_agent, of_exporter, of_node = re.findall("settings: (.*)", log)
    assert "node-id=rack-7 (file)" in of_agent
    assert "queue=64 (flag)" in of_agent
    assert "series-budget=600 (environment)" in of_agent
    assert "series-budget=600 (flag)" in of_exporter
    assert "api-port=0 (flag)" in of_node
    assert "queue" not in of_node  # back at its default, against the file
    found = re.search(r"metrics on (\S+)/metrics", log)
    assert found
    wait_for(lambda: value(scrape(found[1]), "node_up", node_id="rack-7") == 1)


@pytest.mark.parametrize("program", ["node.agent", "node", "exporter"])
def test_bad_file_is_one_line(tmp_path: Path, program: str) -> None:
    """A mistake in the file is one line with file and line, and exit code 2, in every process."""
    config = tmp_path / "config.toml"
    config.write_text('\nnode-id = "a b"\n')
    done = subprocess.run(
        [sys.executable, "-m", program],
        env=os.environ | {"DISTRIBUTED_LLM_CONFIG": str(config)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"{config}, line 2: node-id: 'a b' is not" in done.stderr
