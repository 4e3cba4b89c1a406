"""Compares what was emitted with what the exporter counted and what Prometheus saw."""

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from tests.chaos.ground import NODE, Ground
from tests.chaos.processes import Truth
from tests.chaos.rows import Row
from tests.processes import PREFIX
from tests.prometheus import query

RANGE_SECONDS: Final = 600
_TERMS: Final = (
    "telemetry_events_emitted_total",
    "telemetry_events_dropped_total",
    "telemetry_events_lost",
)
_ROUNDING: Final = 1e-6
_SCRAPE_SECONDS: Final = 1.5
_LAST_SCRAPE_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.2


def equation_rows(ground: Ground, truth: Truth, node_id: str = NODE) -> list[Row]:
    """Return the rows of the proof, for emitters that have ended without drops."""
    applied = ground.applied_kinds(node_id)
    emitted, dropped, lost = (ground.value(name, node_id=node_id) or 0 for name in _TERMS)
    terms = f"{emitted:,.0f} = {applied.total():,} + {dropped:,.0f}, lost {lost:,.0f}"
    wrong = [kind for kind in truth.kinds | applied if applied[kind] != truth.kinds[kind]]
    return [
        Row(
            "emitted = applied + dropped, dropped 0, lost 0",
            terms,
            emitted == applied.total() + dropped and dropped == lost == 0,
        ),
        Row(
            "applied by kind of event = the emitter's truth",
            f"{len(truth.kinds)} kinds, {truth.emitted:,} events; "
            + (f"wrong: {', '.join(wrong)}" if wrong else "all equal"),
            not wrong and truth.emitted > 0,
        ),
    ]


def log_row(ground: Ground) -> Row:
    """Return the row of the promise that no process ends with a traceback."""
    found = ground.tracebacks()
    return Row("no traceback in any log", f"{found}", found == 0)


@dataclass(frozen=True)
class Increase:
    """What Prometheus computes for one counter."""

    first: float
    raw: float
    """The growth between samples, with a reset counted from 0, as `increase()` does it."""
    shown: float
    """The result of `increase()`."""
    explained: float
    """`raw`, extrapolated as `increase()` does it."""


def prometheus_rows(url: str, truth: Truth, node_id: str = NODE) -> list[Row]:
    """Return the rows on what Prometheus saw of emitters that have just ended."""
    counter = f'{PREFIX}exporter_events_total{{node_id="{node_id}"}}'
    total = _wait_total(url, counter, truth.emitted)
    if total != truth.emitted:
        up = query(url, "up")
        return [Row("Prometheus sees what was counted", f"{total:,.0f}; up: {up}", held=False)]
    at = round(time.time(), 3)
    # A scrape has the time of its start, so none may be under way between the two.
    time.sleep(_SCRAPE_SECONDS)
    series = query(url, f"{counter}[{RANGE_SECONDS}s]", at)
    shown = query(url, f"increase({counter}[{RANGE_SECONDS}s])", at)
    increases = {kind: _increase(series, shown, kind, at) for kind in truth.kinds}
    raw = sum(found.raw for found in increases.values())
    first = sum(found.first for found in increases.values())
    extrapolated = sum(found.shown for found in increases.values())
    explained = sum(found.explained for found in increases.values())
    return [
        Row(
            "Prometheus: increase from raw samples = truth",
            f"raw {raw:,.0f}, truth since its first sample {truth.emitted - first:,.0f}",
            all(truth.kinds[kind] - found.first == found.raw for kind, found in increases.items()),
        ),
        Row(
            "increase() differs only by its extrapolation",
            f"increase() {extrapolated:,.2f}, raw extrapolated {explained:,.2f}",
            all(
                abs(found.shown - found.explained) <= _ROUNDING * found.explained
                for found in increases.values()
            ),
        ),
    ]


def _wait_total(url: str, counter: str, expected: float) -> float:
    """Return the counter's last sum, once it has the expected value or a while has passed."""
    deadline = time.monotonic() + _LAST_SCRAPE_SECONDS
    while True:
        found = query(url, f"sum({counter})")
        total = float(found[0]["value"][1]) if found else 0.0
        if total == expected or time.monotonic() > deadline:
            return total
        time.sleep(_LOOK_SECONDS)


def _increase(
    series: list[dict[str, Any]], shown: list[dict[str, Any]], kind: str, at: float
) -> Increase:
    (samples,) = (row["values"] for row in series if row["metric"]["event"] == kind)
    (result,) = (row["value"][1] for row in shown if row["metric"]["event"] == kind)
    points = [(float(when), float(number)) for when, number in samples]
    raw = raw_increase([number for _, number in points])
    return Increase(points[0][1], raw, float(result), raw * _stretch(points, raw, at))


def raw_increase(numbers: list[float]) -> float:
    """Return a counter's growth from sample to sample; after a reset it grew from 0."""
    return sum(after - before if after >= before else after for before, after in pairwise(numbers))


def _stretch(points: list[tuple[float, float]], raw: float, at: float) -> float:
    """Return the factor of `increase()`, as in `extrapolatedRate` (Prometheus 2, functions.go)."""
    (began, first), (ended, _) = points[0], points[-1]
    sampled = ended - began
    between = sampled / (len(points) - 1)
    to_start = began - (at - RANGE_SECONDS)
    if raw > 0 and first >= 0:
        to_start = min(to_start, sampled * first / raw)
    to_end = at - ended
    edges = (edge if edge < between * 1.1 else between / 2 for edge in (to_start, to_end))
    return (sampled + sum(edges)) / sampled
