"""`just run-cluster` with its three agents."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.processes import free_port


@pytest.mark.slow
def test_three_agents_run_as_one_command(tmp_path: Path) -> None:
    """`run-cluster` lists the models of each node, and one signal ends everything."""
    ports = tuple((free_port(), free_port(), free_port()) for _ in range(3))
    program = f"from deployments import cluster; raise SystemExit(cluster.main([], {ports!r}))"
    log = tmp_path / "log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            lines = _lines_until(process, "node3")
        finally:
            process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(timeout=60) == 0
    table = [line.split() for line in lines if line.startswith("node")]
    assert [row[0] for row in table] == ["node", "node1", "node2", "node3"]
    assert [row[3] for row in table[1:]] == ["2", "2", "2"]
    assert "stopping" in rest
    for own in ports:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{own[0]}/health")
    assert "Traceback" not in log.read_text()


def _lines_until(process: "subprocess.Popen[str]", start: str) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(start):
            break
    return lines
