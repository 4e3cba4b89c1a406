"""Decides whether this node coordinates a split model, and over which nodes; no I/O."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from node.engine.place import Place, Stage
from node.engine.shape import Shape
from node.routing.holders import Holder
from node.routing.offer import OfferedModel
from node.routing.plan import Plan, make_plan, make_split

_NAMED: Final = 5
"""Nodes that an error names with their reasons."""


@dataclass(frozen=True)
class Rival:
    """Another node that has the model, is alive and accepts requests."""

    node_id: str
    model: OfferedModel
    coordinates: bool
    """Whether it offers stages of the model now."""


def find_server(
    node_id: str, shape: Shape, holders: Sequence[Holder], rivals: Iterable[Rival]
) -> str:
    """Return the node to which this one leaves a model; empty if this one coordinates it.

    A node that has the model loaded, or coordinates it already, keeps it. Otherwise a node that can
    hold it whole is better than a split. Of the nodes that could coordinate a split, the first by
    name does.
    """
    able = sorted((r for r in rivals if r.model.state != "failed"), key=lambda r: r.node_id)
    tried = [rival for rival in able if not rival.model.elsewhere]
    for rival in tried:
        if rival.model.state == "ready" or rival.coordinates:
            return rival.node_id
    names = {rival.node_id for rival in tried}
    whole = make_plan(shape, [node for node in holders if node.node_id in names], replicas=1)
    if whole.whole:
        return whole.shares[0].node_id
    earlier = (rival.node_id for rival in able if rival.node_id < node_id)
    return next((name for name in earlier if not make_split(shape, holders, name).unserved), "")


def plan_around(
    shape: Shape, holders: Sequence[Holder], node_id: str, avoided: Mapping[str, str]
) -> Plan:
    """Return the plan with this node as the coordinator, without nodes that failed lately.

    If the model does not fit then, they are used again: their workers may have come back.

    Args:
        shape: The model.
        holders: All nodes.
        node_id: This node.
        avoided: Why each of these nodes is avoided; the first is used again first.
    """
    names = list(avoided)
    for used in range(len(names)):
        barred = set(names[used:])
        plan = make_split(shape, [_bar(node, avoided, barred) for node in holders], node_id)
        if not plan.unserved:
            return plan
    return make_split(shape, holders, node_id)


def _bar(node: Holder, avoided: Mapping[str, str], barred: set[str]) -> Holder:
    if node.barred or node.node_id not in barred:
        return node
    return replace(node, barred=avoided[node.node_id])


def place_of(plan: Plan, shape: Shape) -> Place:
    """Return the place of a model that is split as planned."""
    workers = [
        Stage(share.node_id, share.first, share.last + 1, share.memory_bytes)
        for share in plan.shares
        if share.node_id != plan.coordinator
    ]
    own = Stage(plan.coordinator, 0, workers[0].first, plan.coordinator_bytes)
    weights = shape.embedding_bytes + sum(shape.layer_bytes[: own.end])
    remote = sum(shape.layer_bytes[own.end :]) + shape.output_bytes
    if shape.is_tied:
        remote += shape.embedding_bytes
    return Place(own.end, weights, own.memory_bytes, (own, *workers), remote)


def explain(plan: Plan, shortage: str) -> str:
    """Return why a model can be held neither by this node nor by several, one line."""
    first = plan.layers - plan.unserved
    reasons = [f"{left.node_id}: {left.why}" for left in plan.left_out[:_NAMED]]
    if len(plan.left_out) > _NAMED:
        reasons.append(f"{len(plan.left_out) - _NAMED} more nodes")
    nodes = f" ({'; '.join(reasons)})" if reasons else ""
    return f"{shortage}. Split, layers {first}-{plan.layers - 1} fit on no node{nodes}"
