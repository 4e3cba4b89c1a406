"""The local stack, and the page about it: every command of the page is run here."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import httpx
import pytest
import trustme

from deployments.local import has_docker
from tests.monitoring.sources import REPOSITORY, RUNBOOKS
from tests.processes import Pair, free_port, wait_for

PAGE: Final = REPOSITORY / "docs" / "monitoring.md"
CONTRACT: Final = """Metrics and Monitoring
Overview
Metrics Categories
Node Metrics
Network Metrics
Inference Metrics
Model Metrics
System Metrics
Health Metrics
Configuration
Agent Configuration
Kubernetes Deployment
Local Development
Start Monitoring Stack
Stop Monitoring Stack
Check Metrics
Prometheus Configuration
Static Configuration (prometheus.yml)
Kubernetes Service Discovery
Grafana Dashboard
Import Dashboard
Production Deployment
Kubernetes Prometheus Setup
Security Considerations
Troubleshooting
Common Issues
Debug Commands
Metrics Best Practices
Integration Points"""

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("just")) or has_docker(),
    reason="needs prometheus and just on PATH (Debian: apt-get install prometheus), and no Docker "
    "engine, which would be used in their place",
)

pytestmark = pytest.mark.slow


class Machine:
    """A machine of its own: free ports and directories for an agent, Prometheus and Grafana."""

    def __init__(self, directory: Path) -> None:
        self.ports = {usual: free_port() for usual in ("9090", "9091", "9093", "3000")}
        self.directory = directory
        self.environment = dict(os.environ) | {
            "DISTRIBUTED_LLM_METRICS_PORT": str(self.ports["9090"]),
            "DISTRIBUTED_LLM_PROMETHEUS_PORT": str(self.ports["9091"]),
            "DISTRIBUTED_LLM_ALERTMANAGER_PORT": str(self.ports["9093"]),
            "DISTRIBUTED_LLM_GRAFANA_PORT": str(self.ports["3000"]),
            "DISTRIBUTED_LLM_LOCAL_DIR": str(directory / "local"),
            "DISTRIBUTED_LLM_RUNTIME_DIR": str(directory / "run"),
            "DISTRIBUTED_LLM_STATE_DIR": str(directory / "state"),
            "DISTRIBUTED_LLM_API_PORT": "0",
            "DISTRIBUTED_LLM_MESH_PORT": "0",
            "DISTRIBUTED_LLM_THREADS": "1",
            "DISTRIBUTED_LLM_REQUEST_LOG": str(directory / "requests.jsonl"),
        }
        self.web_config = directory / "web.yml"
        self.web_config.write_text("http_server_config: {http2: true}\n")

    def here(self, command: str) -> str:
        """Return a command with this machine's ports and its web configuration."""
        command = command.replace("--web-config-file=FILE", f"--web-config-file={self.web_config}")
        for usual, port in self.ports.items():
            command = re.sub(rf"\b{usual}\b", str(port), command)
        return command

    def run(self, command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of a page in a shell, at the root of the repository."""
        return subprocess.run(  # noqa: PLW1510, S602 - pages are written for a shell
            f"set -o pipefail; {self.here(command)}",
            shell=True,
            executable="bash",
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=100,
        )

    def local(self, name: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """Run a recipe's command without `just`."""
        return subprocess.run(  # noqa: PLW1510
            [sys.executable, "-m", "deployments.local", name],
            cwd=REPOSITORY,
            env=self.environment | more,
            capture_output=True,
            text=True,
            timeout=100,
        )


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine on which the agent runs as the page says."""
    made = Machine(tmp_path_factory.mktemp("machine"))
    (starting,) = [c for c in commands(PAGE) if c.startswith("just agent")]
    with agent(made.here(starting), made.environment):
        wait_for(lambda: "distributed_llm_node_up" in _metrics(made), 60)
        yield made
        made.local("monitoring-stop")


def test_page_has_every_heading_of_the_contract() -> None:
    """The page keeps the contract's headings, in its order; others may stand between them."""
    headings = re.findall(r"^#+ (.*)$", _without_code(PAGE.read_text()), re.MULTILINE)
    assert [heading for heading in headings if heading in CONTRACT.split("\n")] == CONTRACT.split(
        "\n"
    )


@needs_prometheus
def test_every_command_of_the_page_works(machine: Machine) -> None:
    """Each command does what the page says, in the page's order, the cluster's excepted."""
    ran = 0
    for command in commands(PAGE):
        if command.startswith(("just agent", "kubectl", "journalctl", "just dashboard-preview")):
            continue  # runs already; needs a cluster, or systemd; is a test of its own
        if command.startswith(("just dashboard", "just monitoring-files")):
            continue  # write into the repository, which tests of their own hold to be current
        if command.startswith("curl") and "9091" in command:
            assert machine.run("just metrics").returncode == 0  # the page stopped it above
        done = machine.run(command)
        ran += 1
        if command in ("just grafana", "just monitoring") and not _has_grafana():
            assert done.returncode != 0
            assert "grafana is not installed: " in done.stderr
        else:
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    assert ran >= 14


@needs_prometheus
@pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_every_command_of_a_runbook_works(machine: Machine, page: Path) -> None:
    """What a runbook tells one to run can be run."""
    for command in commands(page):
        if command.startswith(("journalctl", "kubectl")):
            continue
        if "9091" in command:
            machine.local("metrics")
        done = machine.run(command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        assert done.stdout or command.startswith("distributed-llm-exporter requests")  # none failed


@needs_prometheus
def test_prometheus_is_started_once_and_stopped(machine: Machine) -> None:
    """A second start finds the first, the agent is a target, a second stop has nothing to do."""
    machine.local("metrics-stop")
    assert machine.local("metrics").stdout.startswith("prometheus runs: ")
    assert machine.local("metrics").stdout.startswith("prometheus runs already: ")
    noted = json.loads((machine.directory / "local/prometheus/process.json").read_text())
    url = f"http://localhost:{machine.ports['9091']}/api/v1"
    targets = wait_for(lambda: httpx.get(f"{url}/targets").json()["data"]["activeTargets"])
    assert targets[0]["scrapeUrl"] == f"http://localhost:{machine.ports['9090']}/metrics"
    groups = httpx.get(f"{url}/rules").json()["data"]["groups"]
    assert sum(len(group["rules"]) for group in groups) > 40
    wait_for(lambda: machine.local("metrics-check").stdout.rstrip().endswith(" up"))
    assert machine.local("metrics-stop").stdout == "prometheus is stopped\n"
    assert not Path(f"/proc/{noted['pid']}").exists()
    assert machine.local("metrics-stop").stdout == "prometheus was not started from here\n"
    check = machine.local("metrics-check")
    assert check.returncode == 0
    assert "start it with `just metrics`" in check.stdout


@needs_prometheus
def test_stop_ends_no_other_process(machine: Machine) -> None:
    """A process that has the number of one that was started here, and is another, is left alone."""
    with subprocess.Popen(["sleep", "60"]) as other:
        file = machine.directory / "local/prometheus/process.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"pid": other.pid, "started": 1.0}))
        assert machine.local("metrics-stop").stdout == "prometheus was not started from here\n"
        assert other.poll() is None
        file.unlink()
        other.kill()


def test_taken_port_is_told(machine: Machine, tmp_path: Path) -> None:
    """Where something else answers at the port, a start says so, and which setting to change."""
    if not shutil.which("prometheus") or has_docker():
        pytest.skip("needs prometheus on PATH and no Docker engine")
    done = machine.local(
        "metrics",
        DISTRIBUTED_LLM_PROMETHEUS_PORT=str(machine.ports["9090"]),
        DISTRIBUTED_LLM_LOCAL_DIR=str(tmp_path),
    )
    assert done.returncode == 1
    assert "DISTRIBUTED_LLM_PROMETHEUS_PORT" in done.stderr
    assert "Traceback" not in done.stderr


@needs_prometheus
def test_token_of_the_metrics_is_used(tmp_path: Path) -> None:
    """Where the metrics ask for a token, Prometheus and the check give the first of the file."""
    token = tmp_path / "tokens"
    token.write_text("# of Prometheus\n\nfirst-of-two-tokens\nsecond-of-two-tokens\n")
    machine = Machine(tmp_path)
    machine.environment["DISTRIBUTED_LLM_METRICS_TOKEN_FILE"] = str(token)
    pair = Pair(tmp_path / "pair")
    flags = [f"--metrics-port={machine.ports['9090']}", f"--metrics-token-file={token}"]
    with pair.exporter(*flags), pair.node():
        assert machine.local("metrics").returncode == 0
        try:
            wait_for(lambda: machine.local("metrics-check").stdout.rstrip().endswith(" up"), 40)
        finally:
            machine.local("metrics-stop")


@needs_prometheus
def test_tls_of_the_metrics_is_used(tmp_path: Path) -> None:
    """Where `--web-config-file` sets TLS, Prometheus and the check use HTTPS."""
    certificate = trustme.CA().issue_cert("node.example")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    (tmp_path / "web.yml").write_text(
        "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n"
    )
    machine, pair = Machine(tmp_path), Pair(tmp_path / "pair")
    web = f"--web-config-file={tmp_path / 'web.yml'}"
    with pair.exporter(f"--metrics-port={machine.ports['9090']}", web), pair.node():
        assert machine.local("metrics").returncode == 0
        try:
            wait_for(lambda: machine.local("metrics-check").stdout.rstrip().endswith(" up"), 40)
        finally:
            machine.local("metrics-stop")


def test_bad_settings_are_one_line_each(tmp_path: Path) -> None:
    """A port that is none, and a token file that cannot be read or holds none, are told."""
    machine, empty = Machine(tmp_path), tmp_path / "empty"
    empty.write_text("# none yet\n")
    for name, value, code in (
        ("DISTRIBUTED_LLM_PROMETHEUS_PORT", "x", 2),
        ("DISTRIBUTED_LLM_METRICS_PORT", "0", 2),
        ("DISTRIBUTED_LLM_METRICS_TOKEN_FILE", str(tmp_path / "missing"), 1),
        ("DISTRIBUTED_LLM_METRICS_TOKEN_FILE", str(empty), 1),
    ):
        done = machine.local("metrics", **{name: value})
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)


def test_missing_programs_are_one_line_each(machine: Machine, tmp_path: Path) -> None:
    """With neither a Docker engine nor the programs, one line says what to install."""
    done = machine.local("monitoring", PATH=str(tmp_path), DISTRIBUTED_LLM_LOCAL_DIR=str(tmp_path))
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("prometheus is not installed: ")
    assert second.startswith("grafana is not installed: ")


def test_missing_agent_is_told(machine: Machine) -> None:
    """A check without an agent is an error that says how to start one."""
    done = machine.local("metrics-check", DISTRIBUTED_LLM_METRICS_PORT=str(free_port()))
    assert done.returncode == 1
    assert "just run-local" in done.stderr


def commands(page: Path) -> list[str]:
    """Give the commands of a page's shell blocks, one a line."""
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@contextlib.contextmanager
def agent(command: str, environment: Mapping[str, str]) -> Iterator[None]:
    """Run the agent by its command until the block ends; it ends as it does at Ctrl-C."""
    with subprocess.Popen(
        command.split(),
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def _metrics(machine: Machine) -> str:
    try:
        return httpx.get(f"http://localhost:{machine.ports['9090']}/metrics").text
    except httpx.TransportError:
        time.sleep(0.1)
        return ""


def _has_grafana() -> bool:
    return bool(shutil.which("grafana") or shutil.which("grafana-server"))


def _without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
