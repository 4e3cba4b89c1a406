"""Alertmanager's configuration, and what a person is sent when a node dies."""

import re
import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from tests.monitoring.alertmanager import CONFIGURATION, PROGRAM, Notification, alertmanager
from tests.monitoring.scene import configuration
from tests.monitoring.sources import RULES, alerts
from tests.processes import Pair, free_port, wait_for
from tests.prometheus import configured_prometheus, query

needs_alertmanager = pytest.mark.skipif(
    not (PROGRAM and shutil.which("amtool") and shutil.which("prometheus")),
    reason="needs prometheus and alertmanager on PATH (Debian: apt-get install prometheus "
    "prometheus-alertmanager)",
)


@needs_alertmanager
@pytest.mark.parametrize("examples", [False, True], ids=["as-it-is", "with-the-examples"])
def test_configuration_is_sound(examples: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """`amtool` accepts the file, as it is and with every example uncommented."""
    text = CONFIGURATION.read_text()
    if examples:
        text = re.sub(r"^    # ( *(?:\w+_configs:|- ).*)$", r"    \1", text, flags=re.MULTILINE)
        assert len(yaml.safe_load(text)["receivers"][0]) == 3
    (tmp_path / "alertmanager.yml").write_text(text)
    done = subprocess.run(  # noqa: PLW1510 - its output is what one wants to see of a failure
        ["amtool", "check-config", str(tmp_path / "alertmanager.yml")],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_configuration_names_real_alerts() -> None:
    """Every alert that the configuration names is one that a rule raises."""
    named = re.findall(r'alertname!?=~?"([^"]+)"', CONFIGURATION.read_text())
    assert {name for value in named for name in value.split("|")} <= {
        alert["alert"] for alert in alerts()
    }


def brisk_rules(directory: Path) -> list[str]:
    """Write a copy of the rules that waits a second for each five; return its files."""
    directory.mkdir()
    files = []
    for file in RULES:
        text = re.sub(
            r"( +(?:for|keep_firing_for)): (\d+)m$",
            lambda found: f"{found[1]}: {int(found[2]) * 12}s",
            file.read_text(),
            flags=re.MULTILINE,
        )
        (directory / file.name).write_text(text)
        files.append(str(directory / file.name))
    return files


@needs_alertmanager
@pytest.mark.slow
def test_dead_node_is_one_notification(tmp_path: Path) -> None:
    """A node of a mesh is killed and comes back: one notification, and one that it is over."""
    with ExitStack() as stack:
        seed = free_port()
        pairs = {name: Pair(tmp_path / name) for name in ("a", "b")}
        mesh = {name: [f"--node-id={name}", f"--seed-nodes=127.0.0.1:{seed}"] for name in pairs}
        exporters = [stack.enter_context(pair.exporter()) for pair in pairs.values()]
        stack.enter_context(pairs["a"].node(*mesh["a"], f"--mesh-port={seed}"))
        second = stack.enter_context(pairs["b"].node(*mesh["b"]))
        manager = stack.enter_context(alertmanager(tmp_path / "alertmanager"))
        targets = [each.url.removeprefix("http://") for each in exporters]
        config = configuration(targets[0], brisk_rules(tmp_path / "rules"))
        config["scrape_configs"][0]["static_configs"] = [{"targets": targets}]
        config["alerting"] = {
            "alertmanagers": [{"static_configs": [{"targets": [manager.target]}]}]
        }
        url = stack.enter_context(configured_prometheus(tmp_path / "prometheus", config))
        wait_for(lambda: len(query(url, "distributed_llm_peer_status == 1")) == 2)

        second.end(signal.SIGKILL)
        told = wait_for(lambda: _to_people(manager.sent), 90)
        assert told[0].status == "firing"
        # The peer notices too; every alert that waits for no more than 3 minutes could have come.
        dead = 'count_over_time((distributed_llm_peer_status{peer="b"} == 0)[60s:1s]) > 36'
        wait_for(lambda: query(url, dead), 90)
        stack.enter_context(pairs["b"].node(*mesh["b"]))
        wait_for(lambda: _to_people(manager.sent)[-1].status == "resolved", 60)
        assert [(each.status, each.alerts) for each in _to_people(manager.sent)] == [
            ("firing", ("NodeDown",)),
            ("resolved", ("NodeDown",)),
        ]


def _to_people(sent: list[Notification]) -> list[Notification]:
    return [each for each in sent if each.receiver != "heartbeat"]
