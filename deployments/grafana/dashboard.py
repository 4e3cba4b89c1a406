"""Generate the dashboard: `python -m deployments.grafana.dashboard > dashboard.json`.

The rows follow an investigation: what is wrong, who is affected, where is it stuck, and then the
machine, the mesh and the telemetry. Rows below the first screen are collapsed and load when opened.
"""

import json
import sys
from collections.abc import Iterator

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from deployments.addresses import DASHBOARD_UID, Addresses, read_addresses
from deployments.grafana import engine, service, splits, system
from deployments.grafana.panels import GREEN, GREY, ORANGE, RED, SOURCE, PanelBuilder
from deployments.grafana.queries import JOB, MODEL, NODE, PLACE, RATE


def write_dashboard(addresses: Addresses) -> str:
    """Return the dashboard as Grafana's JSON."""
    board = (
        builders.Dashboard("Distributed LLM")
        .uid(DASHBOARD_UID)
        .description(
            "Nodes that serve language models, in the order of an investigation. A gap or 'no "
            "data' means that the value is unknown; 0 means none."
        )
        .tags(["distributed-llm"])
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .editable()
    )
    pages = (
        ("Runbooks", f"{addresses.repository}/docs/runbooks"),
        ("Monitoring", f"{addresses.repository}/docs/monitoring.md"),
        ("Metrics", f"{addresses.repository}/docs/metrics.md"),
    )
    for title, page in pages if addresses.repository else ():
        board.link(
            builders.DashboardLink(title)
            .type(models.DashboardLinkType.LINK)
            .url(page)
            .icon("doc")
            .target_blank(True)
        )
    for variable in _variables():
        board.with_variable(variable)
    for annotation in _annotations():
        board.annotation(annotation)
    for panel in service.now(addresses):
        board.with_panel(panel)
    for title, panels in (
        ("Users: latency, first token, tokens", service.users()),
        ("Objectives and their budget", service.objectives()),
        ("Queue, slots and stalls", service.queue()),
        ("Engines: gaps, batches, context, memory", engine.engine()),
        ("Models and layers", service.models()),
        ("Split models", splits.split_models()),
        ("Machine: CPU, memory, tasks", system.machine()),
        ("Network between nodes", system.network()),
        ("HTTP and gRPC", system.edge()),
        ("Health checks", system.health()),
        ("The telemetry itself", system.telemetry()),
    ):
        board.with_row(_row(title, panels))
    board.with_row(_row("Node $node", system.one_node()).repeat("node"))
    built = board.build()
    _number_panels(built)
    return json.dumps(built, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _row(title: str, panels: Iterator[PanelBuilder]) -> builders.Row:
    row = builders.Row(title).collapsed(True)
    for panel in panels:
        row.with_panel(panel)
    return row


def _number_panels(board: models.Dashboard) -> None:
    """Number the panels: a link to a panel needs its id."""
    at = 0
    for panel in board.panels or []:
        inner = panel.panels if isinstance(panel, models.RowPanel) else []
        for each in (panel, *inner):
            at += 1
            each.id_val = at


def _variables() -> Iterator[builders.DatasourceVariable | builders.QueryVariable]:
    yield builders.DatasourceVariable("datasource").label("Data source").type("prometheus")
    exporters = "distributed_llm_exporter_build_info"
    for name, label, query in (
        ("cluster", "Cluster", f"label_values({exporters}, cluster)"),
        ("namespace", "Namespace", f'label_values({exporters}{{cluster=~"$cluster"}}, namespace)'),
        ("job", "Job", f"label_values({exporters}{{{PLACE}}}, job)"),
        ("node", "Node", f"label_values(distributed_llm_node_up{{{JOB}}}, node_id)"),
        (
            "model",
            "Model",
            f"label_values(distributed_llm_inference_requests_total{{{NODE}}}, model_id)",
        ),
    ):
        yield (
            builders.QueryVariable(name)
            .label(label)
            .datasource(SOURCE)
            .query(query)
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(models.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(models.VariableOption(selected=True, text="All", value="$__all"))
        )


def _annotations() -> Iterator[builders.AnnotationQuery]:
    for name, color, query in (
        (
            "Node started",
            "blue",
            (
                f"changes(distributed_llm_node_start_time_seconds{{{NODE}}}{RATE}) > 0"
                f" or distributed_llm_node_uptime_seconds{{{NODE}}} < 15"
            ),
        ),
        (
            "Node lost",
            RED,
            f'increase(distributed_llm_node_ends_total{{{NODE}, reason="lost"}}{RATE}) > 0',
        ),
        (
            "Node stopped",
            GREY,
            f'increase(distributed_llm_node_ends_total{{{NODE}, reason="goodbye"}}{RATE}) > 0',
        ),
        (
            "Model loaded",
            GREEN,
            f'increase(distributed_llm_model_loads_total{{{MODEL}, result="ok"}}{RATE}) > 0',
        ),
        (
            "Engine replaced",
            ORANGE,
            f"increase(distributed_llm_engine_restarts_total{{{MODEL}}}{RATE}) > 0",
        ),
    ):
        yield (
            builders.AnnotationQuery()
            .name(name)
            .datasource(SOURCE)
            .enable(True)
            .icon_color(color)
            .expr(query)
        )


if __name__ == "__main__":
    sys.stdout.write(write_dashboard(read_addresses()))
