"""Decides which node holds which layers of a model; every node makes the same decision.

A pure function of the model's shape and the nodes' adverts. A model that fits on one node is placed
whole, with further nodes as replicas. A model that fits on none is split into contiguous ranges
over as few nodes as can hold it: the coordinator, which has the file and keeps the embedding and
the first layers, and workers with the same build of llama.cpp. Each node gets as much as its memory
and its measured speed allow.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from node.engine.shape import Shape
from node.routing.cuts import balance, choose_nodes
from node.routing.footprint import Footprint
from node.routing.holders import Holder
from node.routing.left_out import (
    LeftOut,
    explain_nowhere,
    explain_split,
    explain_whole,
    why_not_coordinator,
)

_LAYERS: Final = 1024
"""The largest models have an eighth of that. More means a damaged header, and would take minutes.
"""


@dataclass(frozen=True)
class Share:
    """The layers that one node holds."""

    node_id: str
    first: int
    last: int
    """Both inclusive, counted from 0."""
    memory_bytes: int
    """The memory that they need there, engine and context included."""
    free_bytes: int


@dataclass(frozen=True)
class Plan:
    """Which nodes hold what."""

    layers: int
    whole: bool
    """Whether each share is the whole model; otherwise the shares are its parts, in order."""
    shares: tuple[Share, ...]
    left_out: tuple[LeftOut, ...]
    unserved: int
    """Layers, at the end, that do not fit on any node."""
    coordinator: str = ""
    """The node that runs the engine of a split model; empty if the model is not split."""
    coordinator_bytes: int = 0
    """What the coordinator holds, its share included."""


def can_be_planned(layers: int) -> bool:
    """Return whether a number of layers, from a model's file or a peer, can be planned."""
    return 0 < layers <= _LAYERS


def make_plan(
    shape: Shape, holders: Iterable[Holder], replicas: int, context_length: int = 0
) -> Plan:
    """Place a model on nodes.

    Args:
        shape: The sizes of the model's parts.
        holders: All nodes, in any order.
        replicas: On how many nodes to place a model that fits on one.
        context_length: Positions of context; 0 for the model's own.
    """
    footprint = Footprint(shape, context_length or shape.context_length)
    everyone = sorted(holders, key=lambda node: node.node_id)
    whole = [node for node in everyone if not node.barred and footprint.whole <= node.free_bytes]
    if whole:
        ranked = sorted(whole, key=lambda n: (not n.has_model, -n.speed, -n.free_bytes, n.node_id))
        used = ranked[:replicas]
        shares = (
            Share(n.node_id, 0, footprint.count - 1, footprint.whole, n.free_bytes) for n in used
        )
        left_out = explain_whole(footprint, everyone, {node.node_id for node in used})
        return Plan(footprint.count, True, tuple(shares), tuple(left_out), 0)
    best = _nowhere(footprint, everyone)
    for node in _coordinators(everyone):
        plan = _split(footprint, everyone, node)
        if plan.unserved < best.unserved:
            best = plan
        if not plan.unserved:
            break
    return best


def make_split(shape: Shape, holders: Iterable[Holder], coordinator: str) -> Plan:
    """Split a model over nodes, whether it fits on one or not, with a given coordinator."""
    footprint = Footprint(shape, shape.context_length)
    everyone = sorted(holders, key=lambda node: node.node_id)
    found = [node for node in _coordinators(everyone) if node.node_id == coordinator]
    return _split(footprint, everyone, found[0]) if found else _nowhere(footprint, everyone)


def _coordinators(everyone: Sequence[Holder]) -> list[Holder]:
    """Return the nodes that could coordinate a split, the preferred one first.

    If no node is known to have the file, every node counts as if it had.
    """
    able = [node for node in everyone if not node.barred and node.rpc_build]
    return [node for node in able if node.has_model] or able


def _nowhere(footprint: Footprint, everyone: Sequence[Holder]) -> Plan:
    """Return the plan of a model that no node can coordinate."""
    left_out = tuple(explain_nowhere(footprint, everyone))
    return Plan(footprint.count, False, (), left_out, footprint.count)


def _split(footprint: Footprint, everyone: Sequence[Holder], coordinator: Holder) -> Plan:
    """Split the model over as few nodes as can hold it, so that the slowest part is fastest.

    If all nodes together cannot hold it, split it over all of them, from the first layer on.
    """
    workers = [
        node
        for node in everyone
        if not node.barred and node.rpc_build == coordinator.rpc_build and node != coordinator
    ]
    if why_not_coordinator(footprint, coordinator):
        return _nowhere(footprint, everyone)
    nodes, cuts = choose_nodes(footprint, coordinator, workers)
    if cuts[-1] == footprint.count:
        cuts = balance(footprint, nodes, cuts)
    shares = _share_out(footprint, nodes, cuts)
    used = {coordinator.node_id, *(share.node_id for share in shares)}
    return Plan(
        layers=footprint.count,
        whole=False,
        shares=tuple(shares),
        left_out=tuple(explain_split(footprint, everyone, used, coordinator)),
        unserved=footprint.count - cuts[-1],
        coordinator=coordinator.node_id,
        coordinator_bytes=footprint.memory(0, cuts[0], coordinates=True),
    )


def _share_out(footprint: Footprint, nodes: Sequence[Holder], cuts: Sequence[int]) -> list[Share]:
    """Return what each node holds between its cuts; the first one coordinates."""
    return [
        Share(
            node.node_id,
            first,
            end - 1,
            footprint.memory(first, end, coordinates=node is nodes[0]),
            node.free_bytes,
        )
        for node, first, end in zip(nodes, [0, *cuts], cuts, strict=False)
        if end > first
    ]
