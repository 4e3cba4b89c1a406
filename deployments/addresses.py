"""Addresses of the runbooks and the dashboard, read from `addresses.toml`."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DASHBOARD_UID: Final = "distributed-llm"
_FILE: Final = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Addresses:
    """Base addresses of the links in alerts and the dashboard, without a trailing slash.

    The repository's may be empty.
    """

    repository: str
    grafana: str

    def runbook(self, alert: str) -> str:
        """Return the address of an alert's runbook, relative to the repository if that has none."""
        return f"{self.repository}/docs/runbooks/{alert}.md".removeprefix("/")

    @property
    def dashboard(self) -> str:
        """The address of the dashboard."""
        return f"{self.grafana}/d/{DASHBOARD_UID}/{DASHBOARD_UID}"


def read_addresses() -> Addresses:
    """Read the addresses."""
    told = tomllib.loads(_FILE.read_text())
    return Addresses(told["repository"].rstrip("/"), told["grafana"].rstrip("/"))
