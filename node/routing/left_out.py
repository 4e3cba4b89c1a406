"""The nodes that hold nothing of a model, and why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from node.machine import mebibytes
from node.routing.footprint import Footprint
from node.routing.holders import Holder


@dataclass(frozen=True)
class LeftOut:
    """A node that holds nothing of the model, and why."""

    node_id: str
    why: str


def explain_whole(
    footprint: Footprint, everyone: Sequence[Holder], used: set[str]
) -> Iterator[LeftOut]:
    """Yield the nodes that hold no copy of a model that fits on one."""
    for node in everyone:
        if node.node_id not in used:
            why = node.barred or _too_small(node, "the model", footprint.whole)
            yield LeftOut(node.node_id, why or "there are enough replicas")


def explain_split(
    footprint: Footprint, everyone: Sequence[Holder], used: set[str], coordinator: Holder
) -> Iterator[LeftOut]:
    """Yield the nodes that hold no part of a split model."""
    for node in everyone:
        if node.node_id not in used:
            why = _why_barred(footprint, node) or _why_no_build(node, coordinator)
            yield LeftOut(node.node_id, why or "the others hold all layers")


def explain_nowhere(footprint: Footprint, everyone: Sequence[Holder]) -> Iterator[LeftOut]:
    """Yield all nodes, because none of them can coordinate."""
    for node in everyone:
        why = _why_barred(footprint, node) or _why_no_build(node, None)
        yield LeftOut(node.node_id, why or why_not_coordinator(footprint, node))


def why_not_coordinator(footprint: Footprint, node: Holder) -> str:
    """Return why a node cannot coordinate; empty if it can."""
    return _too_small(node, "a coordinator of it", footprint.coordinator)


def _why_barred(footprint: Footprint, node: Holder) -> str:
    """Return why a node cannot hold even one layer; empty if it can."""
    least = min(footprint.memory(n, n + 1, coordinates=False) for n in range(footprint.count))
    return node.barred or _too_small(node, "one layer", least)


def _why_no_build(node: Holder, coordinator: Holder | None) -> str:
    """Return why a node's build is of no use to the coordinator; empty if it is."""
    if not node.rpc_build:
        return "it offers no worker: set --llama-server to a build with RPC"
    if coordinator is not None and node.rpc_build != coordinator.rpc_build:
        return f"its build is {node.rpc_build}, not {coordinator.rpc_build} like the coordinator's"
    return ""


def _too_small(node: Holder, what: str, needed: int) -> str:
    if node.free_bytes >= needed:
        return ""
    return f"{what} needs {mebibytes(needed)}, it has {mebibytes(node.free_bytes)} free"
