"""Every query of dashboard and rules against a real Prometheus that scrapes real work."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.monitoring.drawing import draw_sheet
from tests.monitoring.preview import evaluate
from tests.monitoring.promql import fill_in
from tests.monitoring.scene import Scene, scene
from tests.monitoring.sources import dashboard, rules, runbook_pages, runbook_queries
from tests.processes import wait_for
from tests.prometheus import query

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not shutil.which("prometheus"),
        reason="needs prometheus on PATH (Debian: apt-get install prometheus)",
    ),
]

_PROMPT_SECONDS = 60
NEEDS_PEERS = "there is one node, and it has no peers"
EMPTY = {
    "Alerts firing": "nothing is wrong",
    "Layers without a node": NEEDS_PEERS,
    "Latency between nodes": NEEDS_PEERS,
    "Latency by peer, p90": NEEDS_PEERS,
    "Peers, as each node sees them": NEEDS_PEERS,
    "Connections": NEEDS_PEERS,
    "gRPC calls by code": "no client of this test speaks gRPC",
    "gRPC calls within 1 s, by method": "no client of this test speaks gRPC",
    "Certificates: days left": "the API of this test has no TLS",
    "Progress of loads": "the demo model is read at once",
    "Drafted tokens accepted": "ctransformers drafts nothing",
    "Memory by device": "ctransformers does not report it",
    "Stages": "no model is split here",
    "Latency of a hop": "no model is split here",
    "Workers lent": "this node has no worker to lend",
    "Label values folded into `other`": "no metric is near its budget",
}
"""Panels that may be empty here, with the reason."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A node under load for all tests of this module."""
    with scene(tmp_path_factory.mktemp("live")) as made:
        yield made


def test_every_panel_has_what_it_should(running: Scene) -> None:
    """No panel's query is refused, and each that should have data has some."""
    empty: set[str] = set()

    def filled() -> bool:
        drawn = evaluate(running.prometheus, time.time() - 20, time.time())
        shown = [each for each in drawn if each.panel["type"] != "row"]
        empty.clear()
        empty.update(each.panel["title"] for each in shown if each.empty)
        return empty <= set(EMPTY)

    try:
        wait_for(filled, 45)
    except AssertionError:
        pytest.fail(f"empty: {empty - set(EMPTY)}")


def test_every_rule_is_evaluated(running: Scene) -> None:
    """Prometheus evaluates the rules without an error, and only the dead-man's switch fires.

    The groups of the slow windows are first evaluated after up to two minutes: those may wait.
    """

    def evaluated() -> bool:
        groups = httpx.get(f"{running.prometheus}/api/v1/rules").json()["data"]["groups"]
        assert sum(len(group["rules"]) for group in groups) == len(list(rules()))
        assert not [r["name"] for group in groups for r in group["rules"] if r["health"] == "err"]
        prompt = [group for group in groups if group["interval"] <= _PROMPT_SECONDS]
        assert prompt
        return all(rule["health"] == "ok" for group in prompt for rule in group["rules"])

    wait_for(evaluated)
    firing = query(running.prometheus, 'ALERTS{alertstate="firing"}')
    assert [alert["metric"]["alertname"] for alert in firing] == ["Watchdog"]


def test_every_annotation_and_variable_is_taken(running: Scene) -> None:
    """The queries that are in no panel are ones that Prometheus takes too."""
    for annotation in dashboard()["annotations"]["list"]:
        query(running.prometheus, fill_in(annotation["expr"], "10s"))
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            metric, _, label = variable["query"][len("label_values(") : -1].rpartition(", ")
            asked = {"match[]": fill_in(metric)}
            response = httpx.get(f"{running.prometheus}/api/v1/label/{label}/values", params=asked)
            assert response.json()["data"], variable["name"]


@pytest.mark.parametrize("page", runbook_pages(), ids=lambda page: page.stem)
def test_queries_of_pages_work(running: Scene, page: Path) -> None:
    """What a runbook tells one to ask, Prometheus answers."""
    for asked in runbook_queries(page):
        query(running.prometheus, asked)


def test_targets_are_up(running: Scene) -> None:
    """Every target of the project's configuration is healthy."""

    def targets() -> list[tuple[str, str, str]]:
        url = f"{running.prometheus}/api/v1/targets"
        found = httpx.get(url).json()["data"]["activeTargets"]
        return [(each["labels"]["job"], each["health"], each["lastError"]) for each in found]

    wait_for(lambda: targets() == [("distributed-llm-agents", "up", "")])


def test_exemplars_arrive(running: Scene) -> None:
    """Prometheus keeps the request ids that the exporter gives with slow buckets."""
    metric = "distributed_llm_inference_latency_seconds_bucket"
    asked: dict[str, str | float] = {
        "query": metric,
        "start": running.began - 60,
        "end": time.time() + 60,
    }
    found = wait_for(
        lambda: httpx.get(f"{running.prometheus}/api/v1/query_exemplars", params=asked).json()[
            "data"
        ]
    )
    assert "request_id" in found[0]["exemplars"][0]["labels"]


def test_preview_is_drawn(running: Scene, tmp_path: Path) -> None:
    """Every kind of panel can be drawn, with data and without."""
    drawn = evaluate(running.prometheus, time.time() - 10, time.time())
    chosen = {(each.panel["type"], each.empty): each for each in drawn}
    assert len(chosen) > 6
    draw_sheet(list(chosen.values()), tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
