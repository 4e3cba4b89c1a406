"""A picture of `/status` as lines and tables of text, the same for a terminal and a pipe."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from exporter.metrics.labels import clean_label
from exporter.status import snapshot as s

REQUESTS_SHOWN: Final = 10
UNKNOWN: Final = "-"
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_SPARKLINE_CHARACTERS: Final = 24
"""A line with what stands beside it fits in 80 columns."""
_MIB: Final = 2**20
_GIB: Final = 2**30
HEADINGS: Final = {
    "ok": "all is well",
    "degraded": "serving, with faults",
    "failed": "needs attention",
}


@dataclass(frozen=True)
class Table:
    """Rows of text under a title; numeric columns are aligned to the right."""

    title: str
    columns: Sequence[str]
    numeric: frozenset[str]
    rows: Sequence[Sequence[str]]


def headline(snapshot: s.Snapshot) -> str:
    """Return the exporter's condition in one line."""
    clock = time.strftime("%H:%M:%S", time.localtime(snapshot.at))
    exporter = snapshot.exporter
    return (
        f"{HEADINGS[snapshot.health]}  {clock}  exporter {clean_label(exporter.version)}, "
        f"up {age(exporter.uptime_seconds)}"
    )


def problems(snapshot: s.Snapshot) -> list[str]:
    """Return what is wrong, one sentence a line."""
    return [clean_label(problem) for problem in snapshot.problems]


def node_lines(node: s.Node) -> Iterator[str]:
    """Yield what a node does, one line a subject."""
    traffic, lines = node.traffic, node.sparklines
    speed = number(traffic.tokens_per_second)
    yield f"tokens/s     {speed:>9}  {sparkline(lines.tokens_per_second)}"
    yield (
        f"first token  {seconds(traffic.first_token.p95_seconds):>9}  "
        f"{sparkline(lines.first_token_p95_seconds)}  p95; "
        f"p50 {seconds(traffic.first_token.p50_seconds)}"
    )
    yield (
        f"queue        {traffic.queued:>9}  {sparkline(lines.queued)}  "
        f"{traffic.slots_busy} of {traffic.slots_total} slots busy"
    )
    yield f"failed       {_failed(traffic):>9}  {sparkline(lines.failed)}  {_ended(traffic)}"
    yield f"telemetry    {_proof(node.telemetry)}"
    yield f"machine      {_machine(node.machine)}"
    peers = ", ".join(f"{clean_label(peer.node_id)} {peer.status}" for peer in node.peers)
    yield f"mesh         {peers or 'no peers'}"


def node_title(node: s.Node) -> str:
    """Return a node's name, state and age."""
    name = clean_label(node.node_id)
    if node.up:
        return f"{name}  {node.state}  up {age(node.uptime_seconds)}"
    state = "said goodbye" if node.departed else "gone"
    return f"{name}  {state}  silent for {age(node.silent_seconds)}"


def models(node: s.Node) -> Table:
    """Return a node's models."""
    columns = ("model", "state", "slots", "queue", "tokens/s", "p50", "p95", "failed", "restarts")
    return Table(
        f"models of {clean_label(node.node_id)}",
        columns,
        frozenset(columns[2:]),
        [_model(model) for model in node.models],
    )


def requests(snapshot: s.Snapshot) -> Table:
    """Return the last requests."""
    columns = ("ended", "model", "status", "first token", "total", "tokens", "tokens/s", "request")
    return Table(
        "last requests",
        columns,
        frozenset(columns[3:7]),
        [_request(request) for request in snapshot.requests[:REQUESTS_SHOWN]],
    )


def sparkline(points: Sequence[float | None]) -> str:
    """Draw the points as characters, newest at the right; a space where nothing is known."""
    width = _SPARKLINE_CHARACTERS
    size = math.ceil(len(points) / width) or 1
    groups = [points[max(0, end - size) : end] for end in range(len(points), 0, -size)][:width]
    peaks = [max((p for p in group if p is not None), default=None) for group in reversed(groups)]
    top = max((peak for peak in peaks if peak is not None), default=0) or 1
    drawn = "".join(
        " " if peak is None else _BLOCKS[1 + round(peak / top * (len(_BLOCKS) - 2))]
        for peak in peaks
    )
    return drawn.rjust(width)


def number(value: float | None) -> str:
    """Return a number with about three significant digits."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"


def seconds(value: float | None) -> str:
    """Return a short time such as 45 ms or 1.25 s."""
    if value is None:
        return UNKNOWN
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def age(value: float | None) -> str:
    """Return a long time such as 12 s, 5 min, 3 h or 2 days."""
    if value is None:
        return UNKNOWN
    for unit, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if value >= 2 * unit:
            return f"{value // unit:.0f} {name}"
    return f"{value:.0f} s"


def _model(model: s.Model) -> tuple[str, ...]:
    traffic = model.traffic
    state: str = model.state
    if model.stalled:
        state = f"stalled for {age(model.silent_seconds)}"
    elif model.load_ratio is not None:
        state = f"loading, {100 * model.load_ratio:.0f} %"
    return (
        clean_label(model.model_id),
        state,
        f"{traffic.slots_busy}/{traffic.slots_total}",
        str(traffic.queued),
        number(traffic.tokens_per_second),
        seconds(traffic.first_token.p50_seconds),
        seconds(traffic.first_token.p95_seconds),
        str(_failed(traffic)),
        str(sum(model.restarts.values())),
    )


def _request(request: s.Request) -> tuple[str, ...]:
    status = f"{request.status}: {request.reason}" if request.reason else request.status
    return (
        time.strftime("%H:%M:%S", time.localtime(request.at)),
        clean_label(request.model_id),
        status,
        seconds(request.first_token_seconds),
        seconds(request.seconds),
        str(request.generated_tokens),
        number(request.tokens_per_second),
        clean_label(request.request_id) or UNKNOWN,
    )


def _failed(traffic: s.Traffic) -> int:
    return traffic.ended["error"] + traffic.ended["timeout"]


def _ended(traffic: s.Traffic) -> str:
    rejected = traffic.ended["rejected"]
    more = f", {rejected} rejected" if rejected else ""
    return f"of {sum(traffic.ended.values())} requests in 5 min{more}"


def _proof(proof: s.Proof) -> str:
    lost = f" + {proof.lost:,} lost" if proof.lost else ""
    return (
        f"{proof.emitted:,} emitted = {proof.applied:,} applied + {proof.dropped:,} dropped{lost}; "
        f"{seconds(proof.lag_seconds)} behind"
    )


def _machine(machine: s.Machine) -> str:
    if machine.total_bytes is None:
        return "unknown"
    cpu = UNKNOWN if machine.host_cpu_percent is None else f"{machine.host_cpu_percent:.0f} %"
    return (
        f"CPU {cpu} of {number(machine.cpu_cores)} cores, node {_bytes(machine.node_bytes)}, "
        f"engines {_bytes(machine.engine_bytes)}, {_bytes(machine.available_bytes)} of "
        f"{_bytes(machine.total_bytes)} free"
    )


def _bytes(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value / _GIB:.1f} GiB" if value >= _GIB else f"{value / _MIB:.0f} MiB"
