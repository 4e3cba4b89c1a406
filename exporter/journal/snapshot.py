"""Pack the whole state as bytes and unpack it; no I/O.

Msgpack of families by name, so that a newer or older exporter reads what it knows: a family that
it lacks is left out, and so are the series of one that has other labels now; one whose buckets
changed is sorted into the new ones by the old upper bounds, which keeps count and sum.
"""

from bisect import bisect_left
from dataclasses import replace
from typing import Final

import msgspec

from exporter.metrics.catalogue.families import FAMILIES
from exporter.metrics.catalogue.family import Family
from exporter.metrics.catalogue.requests import REQUESTS
from exporter.metrics.histogram import Histogram
from exporter.metrics.nodes import Labels, Node
from exporter.metrics.state import State

VERSION: Final = 1
_Counts = tuple[list[int], float]


class UnreadableSnapshotError(Exception):
    """The bytes are not a snapshot that this exporter can read."""


class _Histograms(msgspec.Struct):
    bounds: tuple[float, ...]
    series: dict[Labels, _Counts]


class Snapshot(msgspec.Struct):
    """A copy of everything in a state."""

    version: int
    numbers: dict[str, dict[Labels, float]]
    histograms: dict[str, _Histograms]
    nodes: dict[str, Node]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Snapshot)


def freeze(state: State) -> Snapshot:
    """Copy a state; `pack` can then run in another thread."""
    numbers, histograms = state.copy_series()
    return Snapshot(
        VERSION,
        {family.name: series for family, series in numbers.items() if not family.derived},
        {
            family.name: _Histograms(
                next(iter(series.values())).bounds,
                {labels: (h.counts, h.sum) for labels, h in series.items()},
            )
            for family, series in histograms.items()
            if series
        },
        {node_id: _copy(node) for node_id, node in state.nodes.items()},
    )


def pack(snapshot: Snapshot) -> bytes:
    """Write a snapshot."""
    return _encoder.encode(snapshot)


def restore_into(state: State, packed: bytes) -> None:
    """Fill an empty state with what a snapshot holds.

    Raises:
        UnreadableSnapshotError: The bytes are damaged or from a newer exporter.
    """
    try:
        snapshot = _decoder.decode(packed)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableSnapshotError(f"the snapshot is damaged: {error}") from error
    if snapshot.version > VERSION:
        raise UnreadableSnapshotError(f"the snapshot has version {snapshot.version}")
    for family in FAMILIES:
        for labels, value in snapshot.numbers.get(family.name, {}).items():
            if len(labels) == len(family.labels):
                state.move(family, labels, value)
        if found := snapshot.histograms.get(family.name):
            _merge(state, family, found)
    state.start_at_zero(snapshot.numbers.get(REQUESTS.name, {}))
    for node_id, node in snapshot.nodes.items():
        # Only that process could know these: its clock, its connections.
        state.nodes[node_id] = replace(node, heard_at=None, pipe=-1, conflict_at=float("-inf"))


def _merge(state: State, family: Family, found: _Histograms) -> None:
    for labels, (counts, total) in found.series.items():
        if len(counts) != len(found.bounds) + 1:
            raise UnreadableSnapshotError(f"the snapshot's {family.name} has other buckets")
        fresh = state.new_histogram(family)
        _sort_into(fresh, found.bounds, counts, total)
        state.merge(family, labels, fresh)


def _copy(node: Node) -> Node:
    sessions = {
        name: replace(session, totals=dict(session.totals))
        for name, session in node.sessions.items()
    }
    return replace(node, sessions=sessions, models=set(node.models), pages=dict(node.pages))


def _sort_into(
    histogram: Histogram, bounds: tuple[float, ...], counts: list[int], total: float
) -> None:
    histogram.sum = total
    for count, bound in zip(counts, (*bounds, float("inf")), strict=True):
        histogram.counts[bisect_left(histogram.bounds, bound)] += count
