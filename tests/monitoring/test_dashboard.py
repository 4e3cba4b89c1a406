"""The dashboard: current, of Grafana's own types, complete, and honest about what is not known."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deployments.addresses import DASHBOARD_UID, Addresses, read_addresses
from deployments.grafana.dashboard import write_dashboard
from deployments.grafana.panels import COLORED, COLORS
from deployments.services import grafana, read_local
from tests.monitoring.sources import DASHBOARD, REPOSITORY, alerts, dashboard, panels
from tests.processes import free_port

PROVISIONING: Final = REPOSITORY / "deployments" / "grafana" / "provisioning"
LAPTOP_ROWS: Final = 17
"""Grid rows of 38 pixels that a browser on a laptop of 768 lines shows below its own bars."""
UNITS: Final = {"short", "percent", "percentunit", "s", "bytes", "binBps", "reqps", "cps"}

shown = [panel for panel in panels() if panel["type"] != "row"]
every_panel = pytest.mark.parametrize("panel", shown, ids=lambda panel: str(panel["id"]))


def test_dashboard_is_current() -> None:
    """The file is what the program writes now."""
    assert DASHBOARD.read_text() == write_dashboard(read_addresses())


def test_dashboard_is_of_grafanas_types() -> None:
    """Read into Grafana's own types and written again it is the same: no field is unknown."""
    read = Dashboard.from_json(json.loads(DASHBOARD.read_text()))
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == dashboard()


def test_dashboard_is_found_by_its_links() -> None:
    """Alerts lead to this dashboard, and set variables that it has."""
    assert dashboard()["uid"] == DASHBOARD_UID
    variables = {variable["name"] for variable in dashboard()["templating"]["list"]}
    assert variables == {"datasource", "cluster", "namespace", "job", "node", "model"}
    for alert in alerts():
        address = alert["annotations"]["dashboard_url"]
        assert f"/d/{DASHBOARD_UID}/" in address
        assert set(re.findall(r"[?&]var-(\w+)=", address)) <= variables


def test_variables_can_be_all() -> None:
    """Each can be one, some or all; all matches series without the label, too."""
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            assert variable["includeAll"]
            assert variable["multi"]
            assert variable["allValue"] == ".*"


@every_panel
def test_panel_explains_itself(panel: dict[str, Any]) -> None:
    """Every panel has a title, a description, a source that can be chosen, and says 'no data'."""
    assert panel["title"]
    assert len(panel["description"]) > 20
    assert panel["datasource"]["uid"] == "$datasource"
    assert panel["fieldConfig"]["defaults"]["noValue"] in ("no data", "nothing fires")
    if panel["type"] in ("timeseries", "stat"):
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    for target in panel["targets"]:
        assert "vector(0)" not in target["expr"], "what is not known is not 0"
        assert (
            "rate(" not in target["expr"]
            or "[$__rate_interval]" in target["expr"]
            or (target.get("instant"))
        )


@every_panel
def test_panel_does_not_bridge_gaps(panel: dict[str, Any]) -> None:
    """A line is broken where nothing was known."""
    if panel["type"] == "timeseries":
        assert panel["fieldConfig"]["defaults"]["custom"]["spanNulls"] is False


def test_status_has_one_color() -> None:
    """Lines named after a status, state, code or reason have the same fixed colour everywhere."""
    for panel in shown:
        if panel["type"] == "timeseries":
            legends = {target["legendFormat"] for target in panel["targets"]}
            fixed = {
                override["matcher"]["options"]: override["properties"][0]["value"]["fixedColor"]
                for override in panel["fieldConfig"]["overrides"]
            }
            assert fixed == (COLORS if legends & COLORED else {}), panel["title"]
    (status,) = [panel for panel in shown if panel["title"] == "Status"]
    for override in status["fieldConfig"]["overrides"]:
        shown_in = override["properties"][0]["value"][0]["options"]["1"]["color"]
        assert shown_in == COLORS[override["matcher"]["options"]]
    assert len({COLORS[name] for name in ("ok", "cancelled", "rejected", "error")}) == 4
    assert COLORS["timeout"] == COLORS["error"]
    assert {"ok", "error", "timeout", "cancelled", "rejected"} <= COLORS.keys()


def test_single_requests_are_shown_once() -> None:
    """A panel with exemplars asks for them with one of its queries, which is of a histogram."""
    panels_with = {
        panel["title"]: [t["expr"] for t in panel["targets"] if t.get("exemplar")]
        for panel in shown
        if any(target.get("exemplar") for target in panel["targets"])
    }
    assert panels_with.keys() == {"Time to first token", "Latency of good answers"}
    for (query,) in panels_with.values():
        assert "_seconds_bucket{" in query


def test_first_screen_is_one_laptop_screen() -> None:
    """What one asks first is seen without scrolling; all else is folded."""
    open_panels = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
    lowest = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in open_panels)
    folded = [panel for panel in dashboard()["panels"] if panel["type"] == "row"]
    assert lowest <= LAPTOP_ROWS
    assert all(row["collapsed"] and row["panels"] for row in folded)


def test_panels_lie_side_by_side() -> None:
    """No panel covers another or leaves the grid, folded or not; ids are each there once."""
    for group in (dashboard()["panels"], *(row.get("panels", ()) for row in dashboard()["panels"])):
        taken: set[tuple[int, int]] = set()
        for panel in group:
            place = panel["gridPos"]
            cells = {
                (place["x"] + dx, place["y"] + dy)
                for dx in range(place["w"])
                for dy in range(place["h"])
            }
            assert max(x for x, _ in cells) < 24
            assert not cells & taken, panel["title"]
            taken |= cells
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))


def test_contract_groups_are_there() -> None:
    """The panels that the documentation promises are on the dashboard."""
    titles = {panel["title"] for panel in shown}
    assert titles >= {
        "Node status",
        "Message rates",
        "CPU",
        "Memory of node and engine",
        "Layers by model and node",
        "Latency between nodes",
        "Requests by status",
        "Latency of good answers",
        "Tokens generated",
        "Trio tasks",
        "Health check status",
    }
    assert {a["name"] for a in dashboard()["annotations"]["list"]} >= {
        "Node started",
        "Node lost",
        "Model loaded",
    }


def test_links_lead_to_pages() -> None:
    """What the dashboard links to is there; without an address there are no links."""
    assert "links" not in dashboard()
    root = "https://git.example/llm"
    for link in json.loads(write_dashboard(Addresses(root, "http://localhost:3000")))["links"]:
        assert (REPOSITORY / link["url"].removeprefix(f"{root}/")).exists()


def test_provisioning_finds_dashboard_and_source(tmp_path: Path) -> None:
    """Each variable of the provisioning is set wherever Grafana is started, to what is there."""
    used = {
        name
        for file in PROVISIONING.rglob("*.yaml")
        for name in re.findall(r"\$([A-Z_]+)", _without_comments(file))
    }
    links = {"DISTRIBUTED_LLM_TRACES_UID", "DISTRIBUTED_LLM_REQUEST_LOG_URL"}
    local = grafana(read_local({"DISTRIBUTED_LLM_LOCAL_DIR": str(tmp_path)})).environment
    compose = yaml.safe_load((REPOSITORY / "deployments" / "local.yaml").read_text())
    in_compose = compose["services"]["grafana"]["environment"]
    assert used == {"PROMETHEUS_URL", "DASHBOARDS_PATH"} | links
    assert used - links <= set(local)  # Grafana inherits the links' variables
    assert used <= set(in_compose)
    assert (Path(local["DASHBOARDS_PATH"]) / "dashboard.json").exists()
    assert Path(local["GF_PATHS_PROVISIONING"]) == PROVISIONING
    source, _, mounted = compose["services"]["grafana"]["volumes"][0].partition(":")
    assert (REPOSITORY / "deployments" / source / "dashboard.json").exists()
    assert in_compose["DASHBOARDS_PATH"] == mounted.removesuffix(":ro")


def test_grafana_is_started_with_its_settings(tmp_path: Path) -> None:
    """A program named as Grafana's is started in the background, asked for its health, and stopped.

    Grafana itself is no package of Debian: a stand-in answers here and tells what it was given.
    """
    stand_in = tmp_path / "bin" / "grafana-server"
    stand_in.parent.mkdir()
    stand_in.write_text(
        f"#!{sys.executable}\n"
        "import http.server, json, os, pathlib, sys\n"
        f"told = {{'arguments': sys.argv[1:], **os.environ}}\n"
        f"pathlib.Path({str(tmp_path / 'told')!r}).write_text(json.dumps(told))\n"
        "class Well(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200 if self.path == '/api/health' else 404)\n"
        "        self.end_headers()\n"
        "port = int(os.environ['GF_SERVER_HTTP_PORT'])\n"
        "http.server.HTTPServer((os.environ['GF_SERVER_HTTP_ADDR'], port), Well).serve_forever()\n"
    )
    stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
    port = str(free_port())
    environment = dict(os.environ) | {
        "PATH": str(stand_in.parent),
        "DISTRIBUTED_LLM_GRAFANA_PORT": port,
        "DISTRIBUTED_LLM_LOCAL_DIR": str(tmp_path / "local"),
    }

    def local(name: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "deployments.local", name],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout

    try:
        assert local("grafana").startswith(f"grafana runs: http://localhost:{port} ")
        assert local("grafana").startswith("grafana runs already: ")
    finally:
        assert local("grafana-stop") == "grafana is stopped\n"
    told = json.loads((tmp_path / "told").read_text())
    assert told["arguments"] == ["--homepath=/usr/share/grafana"]
    assert told["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert told["GF_PATHS_DATA"].startswith(str(tmp_path))


def _without_comments(file: Path) -> str:
    return re.sub(r"#.*", "", file.read_text())
