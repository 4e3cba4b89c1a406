"""The kinds of panels in the dashboard, on Grafana's own types."""

from collections.abc import Sequence
from typing import Final, TypeVar

from grafana_foundation_sdk.builders import (
    common as common_builders,
)
from grafana_foundation_sdk.builders import (
    dashboard as dashboard_builders,
)
from grafana_foundation_sdk.builders import (
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common, dashboard, units
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE: Final = dashboard.DataSourceRef(type_val="prometheus", uid="$datasource")
NO_DATA: Final = "no data"
"""The text of an empty panel, which must not look like 0."""

BLUE: Final = "blue"
GREEN: Final = "green"
YELLOW: Final = "yellow"
ORANGE: Final = "orange"
RED: Final = "red"
GREY: Final = "#808080"

STATUS: Final = (
    ("0", "offline", RED),
    ("1", "online", GREEN),
    ("2", "busy", BLUE),
    ("3", "unknown", GREY),
)
"""The codes of `node_status` and `peer_status`."""

COLORS: Final = {
    "ok": GREEN,
    "200": GREEN,
    "online": GREEN,
    "alive": GREEN,
    "good": GREEN,
    "busy": BLUE,
    "draining": YELLOW,
    "offline": RED,
    "cancelled": GREY,
    "unknown": GREY,
    "rejected": YELLOW,
    "suspect": YELLOW,
    "error": RED,
    "timeout": RED,
    "failed": RED,
    "crashed": RED,
    "stalled": ORANGE,
    "bad": RED,
    "499": GREY,
    **dict.fromkeys(("400", "401", "404", "413", "422", "429", "resource_exhausted"), YELLOW),
    **dict.fromkeys(("408", "500", "503", "504", "deadline_exceeded", "internal"), RED),
}
"""The colour of each status, state, code and reason, the same in every panel."""
COLORED: Final = {"{{status}}", "{{state}}", "{{code}}", "{{reason}}"}
"""Legends that are one of these names."""

PanelBuilder = timeseries.Panel | stat.Panel | heatmap.Panel | statetimeline.Panel | table.Panel
P = TypeVar("P", bound=PanelBuilder)
Query = tuple[str, str]
"""PromQL and the legend of its series."""


def series(  # noqa: PLR0913 - the options of a panel, by name
    title: str,
    description: str,
    *queries: Query,
    unit: str = units.Short,
    width: int = 8,
    height: int = 7,
    stacked: bool = False,
    warn: float | None = None,
    exemplars: bool = False,
) -> timeseries.Panel:
    """Return a panel of lines over time; a gap means unknown.

    Args:
        title: The question that the panel answers.
        description: How to read it.
        queries: The lines.
        unit: Grafana's name of the unit.
        width: Columns, of 24.
        height: Grid rows.
        stacked: Whether the lines add up to a whole.
        warn: The value of the dashed warning line.
        exemplars: Whether to show single requests, with their ids.
    """
    panel = (
        timeseries.Panel()
        .unit(unit)
        .min(0)
        .span_nulls(False)
        # Without lines, what is 0 leaves no mark on top of a stack.
        .line_width(0 if stacked else 1)
        .fill_opacity(50 if stacked else 5)
        .show_points(common.VisibilityMode.NEVER)
        .tooltip(
            common_builders.VizTooltipOptions()
            .mode(common.TooltipDisplayMode.MULTI)
            .sort(common.SortOrder.DESCENDING)
        )
        .legend(
            common_builders.VizLegendOptions()
            .show_legend(True)
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
        )
    )
    if stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    if warn is not None:
        panel.thresholds(_steps((None, "transparent"), (warn, RED)))
        panel.thresholds_style(
            common_builders.GraphThresholdsStyleConfig().mode(common.GraphTresholdsStyleMode.DASHED)
        )
    for at, (query, legend) in enumerate(queries):
        panel.with_target(_target(at, query, legend).range().exemplar(exemplars and at == 0))
    if any(legend in COLORED for _, legend in queries):
        _color_by_name(panel)
    return _finish(panel, title, description, width, height)


def number(
    title: str,
    description: str,
    query: str,
    *steps: tuple[float | None, str],
    unit: str = units.Short,
    width: int = 3,
    decimals: int = 0,
) -> stat.Panel:
    """Return a panel of one current number, coloured by thresholds."""
    panel = (
        stat.Panel()
        .unit(unit)
        .decimals(decimals)
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.BACKGROUND)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_steps(*(steps or ((None, GREY),))))
        .with_target(_target(0, query, "").instant())
    )
    return _finish(panel, title, description, width, 4)


def heat(title: str, description: str, query: str, *, width: int = 12) -> heatmap.Panel:
    """Return a heatmap of observations by bucket over time."""
    panel = (
        heatmap.Panel()
        .calculate(False)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_models.HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .steps(32)
        )
        .y_axis(heatmap.YAxisConfig().unit(units.Seconds))
        .cell_values(heatmap.CellValues().unit(units.Short))
        .with_target(_target(0, query, "{{le}}").format(PromQueryFormat.HEATMAP).range())
    )
    return _finish(panel, title, description, width, 8)


def states(
    title: str,
    description: str,
    query: Query,
    meanings: Sequence[tuple[str, str, str]],
    *,
    width: int = 12,
    height: int = 7,
) -> statetimeline.Panel:
    """Return a panel of states over time.

    Args:
        title: The question that the panel answers.
        description: How to read it.
        query: Returns a code for each line.
        meanings: The code, word and colour of each state.
        width: Columns, of 24.
        height: Grid rows.
    """
    panel = (
        statetimeline.Panel()
        .mappings([_words(meanings)])
        .merge_values(True)
        .show_value(common.VisibilityMode.AUTO)
        .row_height(0.8)
        .legend(common_builders.VizLegendOptions().show_legend(False))
        .with_target(_target(0, *query).range())
    )
    return _finish(panel, title, description, width, height)


def one_of(title: str, description: str, query: Query, *, width: int) -> statetimeline.Panel:
    """Return a panel of series that are 1 while they hold, each in the colour of its state."""
    panel = states(title, description, query, (), width=width)
    for name, color in COLORS.items():
        words = _words((("0", "", "transparent"), ("1", "yes", color)))
        panel.override_by_name(name, [dashboard.DynamicConfigValue("mappings", [words])])
    return panel


def rows(  # noqa: PLR0913 - the options of a panel, by name
    title: str,
    description: str,
    query: str,
    hidden: Sequence[str],
    *,
    width: int = 12,
    height: int = 7,
    link: tuple[str, str] | None = None,
) -> table.Panel:
    """Return a table of a query's current series, one per row, with their labels.

    Args:
        title: The question that the panel answers.
        description: How to read it.
        query: Returns the rows.
        hidden: Columns to hide.
        width: Columns, of 24.
        height: Grid rows.
        link: The title and address of a link in each row.
    """
    hide = dict.fromkeys(("Time", "__name__", "job", *hidden), True)
    panel = (
        table.Panel()
        .show_header(True)
        .with_target(_target(0, query, "").instant().format(PromQueryFormat.TABLE))
        .with_transformation(
            dashboard.DataTransformerConfig(id_val="organize", options={"excludeByName": hide})
        )
    )
    if link:
        panel.data_links(
            [
                dashboard_builders.DashboardLink(link[0])
                .type(dashboard.DashboardLinkType.LINK)
                .url(link[1])
                .target_blank(True)
            ]
        )
    return _finish(panel, title, description, width, height)


def _words(meanings: Sequence[tuple[str, str, str]]) -> dashboard.ValueMap:
    return dashboard.ValueMap(
        options={
            code: dashboard.ValueMappingResult(text=word, color=color, index=at)
            for at, (code, word, color) in enumerate(meanings)
        }
    )


def _color_by_name(panel: timeseries.Panel) -> None:
    for name, color in COLORS.items():
        fixed = {"mode": "fixed", "fixedColor": color}
        panel.override_by_name(name, [dashboard.DynamicConfigValue("color", fixed)])


def _target(at: int, query: str, legend: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + at))


def _steps(*steps: tuple[float | None, str]) -> Builder[dashboard.ThresholdsConfig]:
    return (
        dashboard_builders.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps([dashboard.Threshold(value=value, color=color) for value, color in steps])
    )


def _finish(panel: P, title: str, description: str, width: int, height: int) -> P:
    panel.title(title).description(description).datasource(SOURCE).no_value(NO_DATA)
    panel.span(width).height(height)
    return panel
