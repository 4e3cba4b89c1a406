"""Divides a model's layers over a coordinator and workers by their memory and speed."""

from collections.abc import Sequence
from typing import Final

from node.routing.footprint import Footprint
from node.routing.holders import Holder

_WORKERS: Final = 16
"""llama.cpp places a model on at most as many devices."""
_STEPS: Final = 40
"""Halvings in the search for the best balance: finer than any clock can measure."""
_SPEEDS: Final = (1.0, 1e15)
"""Limits for a node's speed in bytes per second, whatever it measured or reports."""


def choose_nodes(
    footprint: Footprint, coordinator: Holder, workers: Sequence[Holder]
) -> tuple[list[Holder], list[int]]:
    """Return as few nodes as can hold the model, in order, with valid cuts.

    The largest worker is the last one, because it also holds the output.
    """
    largest = sorted(workers, key=lambda n: (-n.free_bytes, -n.speed, n.node_id))[:_WORKERS]
    nodes = [coordinator]
    cuts = _fill(footprint, nodes, [float("inf")])
    for count in range(1, len(largest) + 1):
        nodes = [coordinator, *reversed(largest[:count])]
        cuts = _fill(footprint, nodes, [float("inf")] * len(nodes))
        if cuts[-1] == footprint.count:
            break
    return nodes, cuts


def balance(footprint: Footprint, nodes: Sequence[Holder], cuts: list[int]) -> list[int]:
    """Return the cuts with the least time in the slowest part; `cuts` are valid ones."""
    speeds = _speeds(nodes)
    low, high = 0.0, footprint.whole / min(speeds)
    for _ in range(_STEPS):
        seconds = (low + high) / 2
        found = _fill(footprint, nodes, [seconds * speed for speed in speeds])
        if found[-1] == footprint.count:
            cuts, high = found, seconds
        else:
            low = seconds
    return cuts


def _fill(footprint: Footprint, nodes: Sequence[Holder], budgets: Sequence[float]) -> list[int]:
    """Assign each node as many of the next layers as its memory and its budget of bytes allow.

    Args:
        footprint: The model.
        nodes: The coordinator, then the workers.
        budgets: The bytes of layers that each may have.

    Returns:
        For each node, the layer after its last one.
    """
    ends, end = [], 0
    for number, (node, budget) in enumerate(zip(nodes, budgets, strict=True)):
        first = end
        while (
            end < footprint.count
            and footprint.memory(first, end + 1, coordinates=number == 0) <= node.free_bytes
            and footprint.weight(first, end + 1) <= budget
        ):
            end += 1
        ends.append(end)
    return ends


def _speeds(nodes: Sequence[Holder]) -> list[float]:
    """Return each node's speed; a node without a measurement gets the others' speed per core."""
    known = [(node.speed, node.cores) for node in nodes if node.speed > 0 and node.cores > 0]
    per_core = sum(s for s, _ in known) / sum(c for _, c in known) if known else 1.0
    speeds = [node.speed or per_core * max(node.cores, 0.1) for node in nodes]
    slowest, fastest = _SPEEDS
    return [min(max(slowest, speed), fastest) for speed in speeds]
