"""Where the queries are: rules, dashboard and runbooks."""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

REPOSITORY: Final = Path(__file__).parents[2]
PROMETHEUS: Final = REPOSITORY / "deployments" / "prometheus"
RULES: Final = tuple(sorted((PROMETHEUS / "rules").glob("*.yaml")))
RULE_TESTS: Final = tuple(sorted((PROMETHEUS / "tests").glob("*.yaml")))
RUNBOOKS: Final = REPOSITORY / "docs" / "runbooks"
DASHBOARD: Final = REPOSITORY / "deployments" / "grafana" / "dashboard.json"


def rules() -> Iterator[dict[str, Any]]:
    """Give every rule."""
    for file in RULES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from group["rules"]


@functools.cache
def recording_rules() -> dict[str, str]:
    """Give the expressions of the recording rules by what they record."""
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


@functools.cache
def alerts() -> list[dict[str, Any]]:
    """Give the alerts; one name can be there twice, with other labels."""
    return [rule for rule in rules() if "alert" in rule]


@functools.cache
def dashboard() -> dict[str, Any]:
    """Give the dashboard as Grafana reads it."""
    read: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return read


def panels() -> Iterator[dict[str, Any]]:
    """Give the dashboard's panels, those within rows too."""
    for panel in dashboard()["panels"]:
        yield panel
        yield from panel.get("panels", ())


def runbook_pages() -> list[Path]:
    """Give every page that has queries."""
    return [*sorted(RUNBOOKS.glob("*.md")), REPOSITORY / "docs" / "monitoring.md"]


def runbook_queries(file: Path) -> list[str]:
    """Give the queries of a page: its blocks marked `promql`, one query a paragraph."""
    blocks = re.findall(r"^ *```promql\n(.*?)^ *```", file.read_text(), re.MULTILINE | re.DOTALL)
    return [query.strip() for block in blocks for query in block.split("\n\n") if query.strip()]


def queries() -> Iterator[tuple[str, str]]:
    """Give every query there is, with where it stands."""
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in panels():
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"]
    for annotation in dashboard()["annotations"]["list"]:
        if "expr" in annotation:
            yield f"annotation {annotation['name']}", annotation["expr"]
    for file in runbook_pages():
        for query in runbook_queries(file):
            yield f"{file.name}", query
