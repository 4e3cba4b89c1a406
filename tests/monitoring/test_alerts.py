"""The alerts: each complete, each tried by promtool, each with a runbook that can be followed."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.addresses import Addresses, read_addresses
from deployments.prometheus.links import link_alerts, link_expectations
from tests.monitoring.promql import read
from tests.monitoring.sources import PROMETHEUS, RULE_TESTS, RULES, RUNBOOKS, alerts
from tests.monitoring.vocabulary import labels_of, metrics

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"),
    reason="needs promtool on PATH (Debian: apt-get install prometheus)",
)
ALWAYS = "Watchdog"
"""The alert that fires while all is well."""
every_alert = pytest.mark.parametrize(
    "alert", alerts(), ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}"
)


@every_alert
def test_alert_says_what_a_woken_person_needs(alert: dict[str, Any]) -> None:
    """Every alert has a severity, time to think, its values in words, and links that are right."""
    assert alert["labels"]["severity"] in ("critical", "warning", "none")
    if alert["alert"] != ALWAYS:
        assert re.fullmatch(r"\d+[sm]", alert["for"])
    told = alert["annotations"]
    assert set(told) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert "{{" in told["summary"] + told["description"] or alert["alert"] == ALWAYS
    assert told["runbook_url"] == read_addresses().runbook(alert["alert"])
    assert told["dashboard_url"].startswith(read_addresses().dashboard)


@every_alert
def test_alert_cannot_flap(alert: dict[str, Any]) -> None:
    """An alert goes on firing for a while, unless its cause is a state that does not waver."""
    steady = {
        *("NodeDown", "ExporterDown", "MetricsAbsent", "AdmissionStalled", "PeerLost"),
        *("HealthChecksFailing", "CertificateExpiring", "ApiUnreachable", "ProbeDown", ALWAYS),
    }
    assert ("keep_firing_for" in alert) != (alert["alert"] in steady)


@every_alert
def test_alert_speaks_of_labels_that_it_has(alert: dict[str, Any]) -> None:
    """No template names a label that the alert's query does not give."""
    named = read(alert["expr"])
    grouped = frozenset(named.kept)
    given = labels_of(named, metrics()) if not grouped else grouped | named.made
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(alert["annotations"].values())))
    assert used <= given


@every_alert
def test_alert_has_a_runbook(alert: dict[str, Any]) -> None:
    """A runbook explains its alert, its effect on users, how to find the cause and what to do."""
    text = (RUNBOOKS / f"{alert['alert']}.md").read_text()
    assert text.startswith(f"# {alert['alert']}\n")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == ["Meaning", "Impact", "Diagnosis", "Mitigation"]
    assert "```promql\n" in text or "```bash\n" in text


def test_no_runbook_is_left_over() -> None:
    """Every runbook is that of an alert."""
    pages = {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == {alert["alert"] for alert in alerts()}


def test_every_alert_is_tried_both_ways() -> None:
    """For every alert and severity there is a case that fires, and a near one that does not."""
    fires, quiet = set(), set()
    for file in RULE_TESTS:
        for case in yaml.safe_load(file.read_text())["tests"]:
            for tried in case["alert_rule_test"]:
                name = tried["alertname"]
                quiet |= set() if tried["exp_alerts"] else {name}
                for expected in tried["exp_alerts"]:
                    fires.add((name, expected["exp_labels"]["severity"]))
                    assert set(expected["exp_annotations"]) == {
                        "summary",
                        "description",
                        "runbook_url",
                        "dashboard_url",
                    }
    assert fires == {(alert["alert"], alert["labels"]["severity"]) for alert in alerts()}
    assert quiet == {alert["alert"] for alert in alerts()} - {ALWAYS}


@pytest.mark.slow
@needs_promtool
def test_rules_are_sound() -> None:
    """`promtool check rules` has nothing to say."""
    done = promtool("check", "rules", *map(str, RULES))
    assert "FAILED" not in done
    assert done.count("SUCCESS") == len(RULES)


@pytest.mark.slow
@needs_promtool
@pytest.mark.parametrize("file", RULE_TESTS, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should(file: Path) -> None:
    """`promtool test rules` holds for labels and annotations, and for those that must not fire."""
    promtool("test", "rules", str(file))


def test_links_are_set_in_one_place() -> None:
    """Other addresses reach every alert and every expectation, and nothing else changes."""
    other = Addresses("https://git.example/llm", "https://grafana.example")
    for file, link in (
        *((file, link_alerts) for file in RULES),
        *((file, link_expectations) for file in RULE_TESTS),
    ):
        text = file.read_text()
        assert link(text, read_addresses()) == text
        moved = link(text, other)
        assert moved.count("https://git.example/llm/docs/runbooks/") == text.count("runbook_url")
        assert moved.count("https://grafana.example/d/") == text.count("dashboard_url")
        assert link(moved, read_addresses()) == text


def promtool(*arguments: str) -> str:
    """Run promtool in the rules' directory; its output, once it has succeeded."""
    done = subprocess.run(  # noqa: PLW1510 - its output is what one wants to see of a failure
        ["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
