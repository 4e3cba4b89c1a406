"""Faults of the events themselves: too large, too many label values."""

import time
from collections import Counter
from pathlib import Path
from typing import Final

from tests.chaos.emitter import OVERSIZE_KIND
from tests.chaos.ground import NODE, RATE, Ground
from tests.chaos.proof import equation_rows, log_row
from tests.chaos.rows import Row
from tests.chaos.watch import Series, Watch, read_series
from tests.processes import PREFIX, wait_for

BUDGET: Final = 10_000
SCRAPE_SECONDS: Final = 10.0
"""Prometheus's default for `scrape_timeout`."""
MEMORY_MEGABYTES: Final = 300
_BOMB_RATE: Final = 20_000.0
_WATCH_SECONDS: Final = 2.0
_BOMBED: Final = ("http_requests_total", "http_request_duration_seconds")


def oversize(directory: Path, events: int = 5) -> list[Row]:
    """Emit events above the size limit, then ordinary ones."""
    with Ground(directory) as ground, Watch(ground.port) as watch:
        ground.start_exporter()
        emitter = ground.emitter(NODE, RATE, f"--oversize={events}")
        time.sleep(1)
        ground.wait_caught_up(emitter)
        assert emitter.end() == 0
        dropped = ground.value("telemetry_events_dropped_total", reason="oversize")
        applied = ground.applied_kinds(NODE)
        expected = emitter.truth().kinds - Counter({OVERSIZE_KIND: events})
        return [
            Row(
                'dropped_total{reason="oversize"} counts them',
                f"{dropped} of {events}",
                dropped == events,
            ),
            Row(
                "everything else arrives",
                f"{applied.total():,} of {expected.total():,} events",
                applied == expected and ground.value("telemetry_events_lost") == 0,
            ),
            watch.row(),
            log_row(ground),
        ]


def cardinality_bomb(directory: Path, routes: int = 200_000) -> list[Row]:
    """Emit responses that each have a different route."""
    with Ground(directory) as ground, Watch(ground.port, _WATCH_SECONDS) as watch:
        ground.start_exporter()
        before = _peak_megabytes(ground)
        emitter = ground.emitter(NODE, _BOMB_RATE, f"--routes={routes}")
        wait_for(lambda: emitter.truth().kinds["HttpFinished"] == routes, 60)
        ground.wait_caught_up(emitter)
        assert emitter.end() == 0
        began = time.monotonic()
        samples = read_series(ground.port)
        seconds = time.monotonic() - began
        memory = _peak_megabytes(ground)
        return [
            *(_budget_row(samples, metric) for metric in _BOMBED),
            *(_folded_row(samples, metric, routes) for metric in _BOMBED),
            Row(
                "every response is counted, under its route or under other",
                f"{_value(samples, 'http_requests_total'):,.0f} of {routes:,}",
                _value(samples, "http_requests_total") == routes,
            ),
            Row(
                f"resident memory at most {MEMORY_MEGABYTES} MB",
                f"{memory:.0f} MB at its peak, {before:.0f} MB before",
                memory <= MEMORY_MEGABYTES,
            ),
            Row(
                f"a scrape takes at most {SCRAPE_SECONDS:g} s",
                f"{seconds:.2f} s for {len(samples):,} samples",
                seconds <= SCRAPE_SECONDS,
            ),
            *equation_rows(ground, emitter.truth()),
            watch.row(),
            log_row(ground),
        ]


def _budget_row(samples: Series, metric: str) -> Row:
    series = samples[f'{PREFIX}exporter_series{{metric="{metric}"}}']
    return Row(
        f"{metric}: at most {BUDGET:,} series plus `other`",
        f"{series:,.0f}",
        BUDGET <= series <= BUDGET + 1,
    )


def _folded_row(samples: Series, metric: str, routes: int) -> Row:
    found = samples[f'{PREFIX}exporter_series_folded_total{{label="route",metric="{metric}"}}']
    return Row(
        f"{metric}: folded samples are counted by metric and label",
        f"route {found:,.0f} of {routes:,}",
        found == routes - BUDGET,
    )


def _value(samples: Series, name: str) -> float:
    return sum(v for series, v in samples.items() if series.startswith(f"{PREFIX}{name}{{"))


def _peak_megabytes(ground: Ground) -> float:
    """Return the exporter's peak memory: `VmHWM`, proc(5)."""
    status = Path(f"/proc/{ground.exporter.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
