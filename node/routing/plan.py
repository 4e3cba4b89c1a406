"""Decides which node holds which layers of a model; every node makes the same decision.

A pure function of the model's shape and the nodes' adverts. A model that fits on one node is placed
whole, with further nodes as replicas. A model that fits on none is split into contiguous ranges
over as few nodes as can hold it. Each node gets as much as its memory and its measured speed allow.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from node.engine.shape import Shape
from node.routing.offer import Offer
from shared.events import NodeState

_SPARE: Final = 1 / 8
"""The share of a node's memory that stays free for the rest of its machine; a guess."""
_ENGINE_BYTES: Final = 128 * 2**20
"""Memory of an engine besides weights and context (`node.serving.catalogue` uses the same)."""
_STEPS: Final = 40
"""Halvings in the search for the best balance: finer than any clock can measure."""
_LAYERS: Final = 1024
"""The largest models have an eighth of that. More means a damaged header, and would take minutes.
"""
_SPEEDS: Final = (1.0, 1e15)
"""Limits for a node's speed in bytes per second, whatever it measured or reports."""


@dataclass(frozen=True)
class Holder:
    """A node that could hold layers."""

    node_id: str
    free_bytes: int
    """Memory for this model: engine, weights and context."""
    speed: float
    """Bytes of weights read per second, as measured; 0 if not measured."""
    cores: float
    has_model: bool = False
    barred: str = ""
    """Why it cannot take part; empty if it can."""


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
class LeftOut:
    """A node that holds nothing of the model, and why."""

    node_id: str
    why: str


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


def can_be_planned(layers: int) -> bool:
    """Return whether a number of layers, from a model's file or a peer, can be planned."""
    return 0 < layers <= _LAYERS


def holder(
    node_id: str, offer: Offer, status: NodeState, model_id: str, barred: str = ""
) -> Holder:
    """Return a node's offer as a holder in the plan of one model."""
    others = sum(
        model.size_bytes + _ENGINE_BYTES
        for model in offer.models
        if model.state in ("ready", "loading") and model.model_id != model_id
    )
    if not barred and status not in ("online", "busy"):
        barred = f"it is {status}"
    return Holder(
        node_id=node_id,
        free_bytes=max(0, int(offer.memory_bytes * (1 - _SPARE)) - others),
        speed=offer.bytes_per_second,
        cores=offer.cpu_cores,
        has_model=any(model.model_id == model_id for model in offer.models),
        barred=barred,
    )


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
    parts = _Parts(shape, context_length or shape.context_length)
    everyone = sorted(holders, key=lambda node: node.node_id)
    able = [node for node in everyone if not node.barred]
    whole = [node for node in able if parts.memory(0, parts.count) <= node.free_bytes]
    if whole:
        ranked = sorted(whole, key=lambda n: (not n.has_model, -n.speed, -n.free_bytes, n.node_id))
        shares = [parts.share(node, 0, parts.count) for node in ranked[:replicas]]
    else:
        shares = _split(parts, able)
    placed = sum(share.last - share.first + 1 for share in shares[: 1 if whole else None])
    return Plan(
        layers=parts.count,
        whole=bool(whole),
        shares=tuple(shares),
        left_out=tuple(_explain(parts, everyone, shares, fits_one=bool(whole))),
        unserved=parts.count - placed,
    )


class _Parts:
    """The layers, with the model's parts that belong to the first and the last of them."""

    def __init__(self, shape: Shape, context_length: int) -> None:
        self.count: Final = len(shape.layer_bytes)
        cache = -(-shape.position_bytes * context_length // self.count)  # per layer, rounded up
        self._sums = [0]
        for weights in shape.layer_bytes:
            self._sums.append(self._sums[-1] + weights + cache)
        self._shape = shape

    def weight(self, first: int, end: int) -> int:
        """Return the bytes of the layers from `first` up to but not including `end`."""
        total = self._sums[end] - self._sums[first]
        if first == 0:
            total += self._shape.embedding_bytes
        if end == self.count:
            total += self._shape.output_bytes
            if self._shape.is_tied and first > 0:
                total += self._shape.embedding_bytes
        return total

    def memory(self, first: int, end: int) -> int:
        """Return the memory that a node needs for these layers."""
        return self.weight(first, end) + _ENGINE_BYTES

    def share(self, node: Holder, first: int, end: int) -> Share:
        """Return these layers as a node's share."""
        memory = self.memory(first, end)
        return Share(node.node_id, first, end - 1, memory, node.free_bytes)


def _split(parts: _Parts, able: Sequence[Holder]) -> list[Share]:
    """Split the model over as few nodes as can hold it, so that the slowest part is fastest.

    If all nodes together cannot hold it, split it over all of them, from the first layer on.
    """
    largest = sorted(able, key=lambda n: (-n.free_bytes, -n.speed, n.node_id))
    cuts = _fill(parts, largest, [float("inf")] * len(largest))
    if parts.count in cuts:
        cuts = cuts[: cuts.index(parts.count) + 1]
        cuts = _balance(parts, largest[: len(cuts)], cuts)
    return [
        parts.share(node, first, end)
        for node, first, end in zip(largest, [0, *cuts], cuts, strict=False)
        if end > first
    ]


def _balance(parts: _Parts, nodes: Sequence[Holder], cuts: list[int]) -> list[int]:
    """Return the cuts with the least time in the slowest part; `cuts` are valid ones."""
    speeds = _speeds(nodes)
    low, high = 0.0, parts.weight(0, parts.count) / min(speeds)
    for _ in range(_STEPS):
        seconds = (low + high) / 2
        found = _fill(parts, nodes, [seconds * speed for speed in speeds])
        if found[-1] == parts.count:
            cuts, high = found, seconds
        else:
            low = seconds
    return cuts


def _fill(parts: _Parts, nodes: Sequence[Holder], budgets: Sequence[float]) -> list[int]:
    """Assign each node as many of the next layers as its memory and its budget of bytes allow.

    Returns:
        For each node, the layer after its last one.
    """
    ends, end = [], 0
    for node, budget in zip(nodes, budgets, strict=True):
        first = end
        room = min(node.free_bytes - _ENGINE_BYTES, budget)
        while end < parts.count and parts.weight(first, end + 1) <= room:
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


def _explain(
    parts: _Parts, everyone: Sequence[Holder], shares: Sequence[Share], *, fits_one: bool
) -> list[LeftOut]:
    used = {share.node_id for share in shares}
    least = min(parts.memory(layer, layer + 1) for layer in range(parts.count))
    needed = parts.memory(0, parts.count) if fits_one else least
    reasons = []
    for node in everyone:
        if node.node_id in used:
            continue
        if node.barred:
            why = node.barred
        elif node.free_bytes < needed:
            what = "the model" if fits_one else "one layer"
            why = f"{what} needs {mebibytes(needed)}, it has {mebibytes(node.free_bytes)} free"
        else:
            why = "there are enough replicas" if fits_one else "the others hold all layers"
        reasons.append(LeftOut(node.node_id, why))
    return reasons


def mebibytes(count: int) -> str:
    """Format a size for a person."""
    return f"{count / 2**20:,.0f} MiB"
