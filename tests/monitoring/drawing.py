"""Draws panels of a dashboard with what their queries gave, each where Grafana would put it."""

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

mpl.use("agg")

_COLUMN_INCHES: Final = 0.85
_ROW_INCHES: Final = 0.42


@dataclass(frozen=True)
class Drawn:
    """A panel with the results of its queries, each after its legend's format."""

    panel: Mapping[str, Any]
    results: list[tuple[str, list[dict[str, Any]]]]

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it."""
        return not any(result for _, result in self.results)


def draw_sheet(drawn: list[Drawn], file: Path) -> None:
    """Write all panels into one picture."""
    places = _places(drawn)
    height = max(y + h for _, y, _, h in places)
    figure = Figure(figsize=(24 * _COLUMN_INCHES, height * _ROW_INCHES), dpi=60)
    for each, (x, y, w, h) in zip(drawn, places, strict=True):
        if each.panel["type"] == "row":
            figure.text(
                0.005, 1 - (y + 0.7) / height, each.panel["title"], fontsize=15, weight="bold"
            )
            continue
        axes = figure.add_axes(
            (
                (x + 0.55) / 24,
                1 - (y + h - 0.75) / height,
                (w - 0.75) / 24,
                (h - 1.55) / height,
            )
        )
        axes.set_title(each.panel["title"], fontsize=10, loc="left")
        _draw(axes, each)
    figure.savefig(file)


def _places(drawn: list[Drawn]) -> list[tuple[int, int, int, int]]:
    """Give x, y, width and height of each panel, every row unfolded."""
    places = []
    x = y = tallest = 0
    for each in drawn:
        size = each.panel["gridPos"]
        if each.panel["type"] == "row" or x + size["w"] > 24:
            x, y, tallest = 0, y + tallest, 0
        places.append((x, y, size["w"], size["h"]))
        x, tallest = x + size["w"], max(tallest, size["h"])
    return places


def _draw(axes: Axes, drawn: Drawn) -> None:
    draw = {
        "timeseries": _lines,
        "stat": _number,
        "heatmap": _heat,
        "state-timeline": _states,
        "table": _table,
    }[drawn.panel["type"]]
    axes.tick_params(labelsize=7)
    if drawn.empty:
        axes.set_axis_off()
        nothing = drawn.panel["fieldConfig"]["defaults"]["noValue"]
        axes.text(0.5, 0.5, nothing, ha="center", va="center", fontsize=14, color="grey")
    else:
        draw(axes, drawn)


def _legend(form: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), form)


def _points(series: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    return [float(t) for t, _ in series["values"]], [float(v) for _, v in series["values"]]


def _lines(axes: Axes, drawn: Drawn) -> None:
    custom = drawn.panel["fieldConfig"]["defaults"]["custom"]
    colors = _fixed_colors(drawn.panel)
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    below: dict[float, float] = {}
    for form, result in drawn.results:
        for series in result:
            times, values = _points(series)
            name = _legend(form, series["metric"])
            values = [value if math.isfinite(value) else math.nan for value in values]
            if stacked:
                bottom = [below.get(at, 0.0) for at in times]
                values = [low + value for low, value in zip(bottom, values, strict=True)]
                below |= dict(zip(times, values, strict=True))
                color = colors.get(name)
                axes.fill_between(times, bottom, values, alpha=0.5, lw=0, color=color, label=name)
            else:
                axes.plot(times, values, lw=1, label=name, color=colors.get(name))
    axes.set_ylim(bottom=0)
    axes.set_xticks([])
    axes.set_ylabel(drawn.panel["fieldConfig"]["defaults"]["unit"], fontsize=7)
    axes.legend(fontsize=6, loc="upper left", ncols=2)


def _fixed_colors(panel: Mapping[str, Any]) -> dict[str, str]:
    return {
        override["matcher"]["options"]: override["properties"][0]["value"]["fixedColor"]
        for override in panel["fieldConfig"]["overrides"]
    }


def _number(axes: Axes, drawn: Drawn) -> None:
    defaults = drawn.panel["fieldConfig"]["defaults"]
    value = float(drawn.results[0][1][0]["value"][1])
    color = "grey"
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            color = step["color"]
    shown = value * 100 if defaults["unit"] == "percentunit" else value
    unit = {"percentunit": "%", "s": " s"}.get(defaults["unit"], "")
    axes.set_facecolor(color)
    axes.set_xticks([])
    axes.set_yticks([])
    text = "NaN" if math.isnan(value) else f"{shown:.{defaults['decimals']:.0f}f}{unit}"
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=20, color="white")


def _heat(axes: Axes, drawn: Drawn) -> None:
    series = sorted(drawn.results[0][1], key=lambda one: float(one["metric"]["le"]))
    times = sorted({at for one in series for at in _points(one)[0]})
    cells, lower = [], [0.0] * len(times)
    for one in series:
        found = dict(zip(*_points(one), strict=True))
        row = [found.get(at, 0.0) for at in times]
        cells.append([max(0.0, v - low) for v, low in zip(row, lower, strict=True)])
        lower = row
    axes.pcolormesh(cells, cmap="Oranges")
    axes.set_xticks([])
    axes.set_yticks([at + 0.5 for at in range(len(series))])
    axes.set_yticklabels([one["metric"]["le"] for one in series], fontsize=6)


def _states(axes: Axes, drawn: Drawn) -> None:
    config = drawn.panel["fieldConfig"]
    (usual,) = config["defaults"]["mappings"]
    own = {
        override["matcher"]["options"]: override["properties"][0]["value"][0]
        for override in config["overrides"]
    }
    names: list[str] = []
    for form, result in drawn.results:
        for series in result:
            name = _legend(form, series["metric"])
            mapping = own.get(name, usual)
            points = zip(*_points(series), strict=True)
            for value, run in itertools.groupby(points, key=lambda point: point[1]):
                times = [at for at, _ in run]
                option = mapping["options"].get(f"{value:g}", {"color": "white"})
                axes.barh(
                    len(names),
                    times[-1] - times[0] + 1,
                    left=times[0],
                    color=option["color"].replace("transparent", "none"),
                    height=0.8,
                )
            names.append(name)
    axes.set_yticks(range(len(names)))
    axes.set_yticklabels(names, fontsize=6)
    axes.set_xticks([])


def _table(axes: Axes, drawn: Drawn) -> None:
    (organize,) = drawn.panel["transformations"]
    hidden = {name for name, gone in organize["options"]["excludeByName"].items() if gone}
    lines = [
        {k: v for k, v in one["metric"].items() if k not in hidden}
        | ({} if "Value" in hidden else {"Value": one["value"][1]})
        for one in drawn.results[0][1]
    ]
    columns = sorted({name for line in lines for name in line})
    axes.set_axis_off()
    table = axes.table(
        [[line.get(name, "") for name in columns] for line in lines],
        colLabels=columns,
        loc="upper left",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(7)
