"""Describe Prometheus, Alertmanager and Grafana as they run beside an agent on this machine."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
PREFIX: Final = "DISTRIBUTED_LLM_"


class LocalError(Exception):
    """Something cannot be done here; the text has one or two lines with the remedy."""


@dataclass(frozen=True)
class Local:
    """Addresses and directories on this machine."""

    metrics_port: int
    token_file: Path | None
    prometheus_port: int
    alertmanager_port: int
    grafana_port: int
    directory: Path

    @property
    def metrics_url(self) -> str:
        """The exporter of the agent."""
        return f"http://localhost:{self.metrics_port}"

    @property
    def prometheus_url(self) -> str:
        """The Prometheus started by `just metrics`."""
        return f"http://localhost:{self.prometheus_port}"

    @property
    def alertmanager_url(self) -> str:
        """The Alertmanager started by `just alertmanager`."""
        return f"http://localhost:{self.alertmanager_port}"

    @property
    def grafana_url(self) -> str:
        """The Grafana started by `just grafana`."""
        return f"http://localhost:{self.grafana_port}"


def read_local(environment: Mapping[str, str]) -> Local:
    """Read the settings.

    Raises:
        LocalError: One of them cannot be used.
    """

    def port(name: str, usual: int) -> int:
        variable = f"{PREFIX}{name}_PORT"
        told = environment.get(variable) or str(usual)
        if not told.isdecimal() or not 0 < int(told) < 2**16:
            raise LocalError(f"{variable} is {told!r}: it needs a port from 1 to 65535")
        return int(told)

    token = environment.get(f"{PREFIX}METRICS_TOKEN_FILE")
    directory = environment.get(f"{PREFIX}LOCAL_DIR") or HERE.parent / ".local"
    return Local(
        metrics_port=port("METRICS", 9090),
        token_file=Path(token).resolve() if token else None,
        prometheus_port=port("PROMETHEUS", 9091),
        alertmanager_port=port("ALERTMANAGER", 9093),
        grafana_port=port("GRAFANA", 3000),
        directory=Path(directory).resolve(),
    )


@dataclass(frozen=True)
class Service:
    """One of the three, and how it is run."""

    name: str
    url: str
    ready_path: str
    programs: tuple[str, ...]
    """Names of the program on PATH."""
    command: Callable[[str], list[str]]
    """Returns the command for the program that was found."""
    environment: Mapping[str, str]
    hint: str
    """What to install where it cannot be run."""


def prometheus(local: Local) -> Service:
    """Describe this machine's Prometheus."""
    home = local.directory / "prometheus"
    return Service(
        "prometheus",
        local.prometheus_url,
        "/-/ready",
        ("prometheus",),
        lambda program: [
            program,
            f"--config.file={home}/config/prometheus.yml",
            f"--storage.tsdb.path={home}/data",
            "--storage.tsdb.retention.time=15d",
            f"--web.listen-address=127.0.0.1:{local.prometheus_port}",
            "--enable-feature=exemplar-storage",
        ],
        {},
        "apt-get install prometheus, or a Docker engine",
    )


def alertmanager(local: Local) -> Service:
    """Describe this machine's Alertmanager."""
    home = local.directory / "alertmanager"
    return Service(
        "alertmanager",
        local.alertmanager_url,
        "/-/ready",
        ("alertmanager", "prometheus-alertmanager"),
        lambda program: [
            program,
            f"--config.file={HERE}/prometheus/alertmanager.yml",
            f"--storage.path={home}/data",
            f"--web.listen-address=127.0.0.1:{local.alertmanager_port}",
            "--cluster.listen-address=",  # alone: without it, it would listen for others
        ],
        {},
        "apt-get install prometheus-alertmanager, or a Docker engine",
    )


def grafana(local: Local) -> Service:
    """Describe this machine's Grafana."""
    home = local.directory / "grafana"
    return Service(
        "grafana",
        local.grafana_url,
        "/api/health",
        ("grafana", "grafana-server"),
        lambda program: [
            program,
            *(["server"] if Path(program).name == "grafana" else []),
            f"--homepath={os.environ.get('GF_PATHS_HOME', '/usr/share/grafana')}",
        ],
        {
            "GF_PATHS_DATA": f"{home}/data",
            "GF_PATHS_LOGS": f"{home}/data/log",
            "GF_PATHS_PLUGINS": f"{home}/data/plugins",
            "GF_PATHS_PROVISIONING": f"{HERE}/grafana/provisioning",
            "GF_SERVER_HTTP_ADDR": "127.0.0.1",
            "GF_SERVER_HTTP_PORT": str(local.grafana_port),
            "GF_SECURITY_ADMIN_PASSWORD": "admin",  # of a Grafana that listens on loopback only
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
            "PROMETHEUS_URL": local.prometheus_url,
            "DASHBOARDS_PATH": f"{HERE}/grafana",
        },
        "Grafana (https://grafana.com/grafana/download), or a Docker engine",
    )
