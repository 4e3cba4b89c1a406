"""Decides which node holds which layers of a model; every node makes the same decision.

A pure function of the model's shape and the nodes' adverts. A model that fits on one node is placed
whole, with further nodes as replicas. A model that fits on none is split into contiguous ranges
over as few nodes as can hold it: the coordinator, which has the file and keeps the embedding and
the first layers, and workers with the same build of llama.cpp. Each node gets as much as its memory
and its measured speed allow.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from node.engine.shape import Shape
from node.routing.offer import Offer, OfferedModel
from shared.events.node import NodeState

_SPARE: Final = 1 / 8
"""The share of a node's memory that stays free for the rest of its machine; a guess."""
_WORKER_BYTES: Final = 16 * 2**20
"""Memory of a worker's process; measured: 4 to 10 MiB."""
_TRANSFER_SHARE: Final = 1 / 2
"""The largest tensor of a layer, as a share of the layer; a guess for every architecture. A worker
holds a tensor twice while it receives it."""
_WORKERS: Final = 16
"""llama.cpp places a model on at most as many devices."""
_UNKNOWN_ENGINE_BYTES: Final = 128 * 2**20
"""Memory of an engine on a node of a version that does not report it."""
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
    rpc_build: str = ""
    """Its build of llama.cpp with RPC; empty if it cannot take part in a split."""


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
    coordinator: str = ""
    """The node that runs the engine of a split model; empty if the model is not split."""
    coordinator_bytes: int = 0
    """What the coordinator holds, its share included."""


def can_be_planned(layers: int) -> bool:
    """Return whether a number of layers, from a model's file or a peer, can be planned."""
    return 0 < layers <= _LAYERS


@dataclass(frozen=True)
class Member:
    """A node of the mesh with its offer."""

    node_id: str
    offer: Offer | None
    """None while it is not known."""
    status: NodeState
    barred: str = ""
    """Why it cannot take part, as seen from here; empty if it can."""


def read_holders(members: Iterable[Member], model_id: str) -> list[Holder]:
    """Return the nodes as holders in the plan of one model."""
    known = list(members)
    held: dict[str, int] = {}
    for member in known:
        for stage in member.offer.stages if member.offer else ():
            if stage.model_id != model_id and stage.node_id != member.node_id:
                held[stage.node_id] = held.get(stage.node_id, 0) + stage.memory_bytes
    return [_holder(member, model_id, held.get(member.node_id, 0)) for member in known]


def _holder(member: Member, model_id: str, held_bytes: int) -> Holder:
    """Return a node as a holder.

    Args:
        member: The node.
        model_id: The model of the plan.
        held_bytes: What the node lends to other models.
    """
    offer, barred = member.offer, member.barred
    if offer is None:
        return Holder(member.node_id, 0, 0, 0, barred=barred or "its offer is not known")
    if not barred and member.status not in ("online", "busy"):
        barred = f"it is {member.status}"
    others = sum(_memory_of(model) for model in offer.models if model.model_id != model_id)
    return Holder(
        node_id=member.node_id,
        free_bytes=max(0, int(offer.memory_bytes * (1 - _SPARE)) - others - held_bytes),
        speed=offer.bytes_per_second,
        cores=offer.cpu_cores,
        has_model=any(model.model_id == model_id for model in offer.models),
        barred=barred,
        rpc_build=offer.rpc_build,
    )


def _memory_of(model: OfferedModel) -> int:
    """Return the memory that a model takes on the node that offers it."""
    if model.state not in ("ready", "loading"):
        return 0
    return model.held_bytes or model.size_bytes + _UNKNOWN_ENGINE_BYTES


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
    whole = [node for node in everyone if not node.barred and parts.whole <= node.free_bytes]
    if whole:
        ranked = sorted(whole, key=lambda n: (not n.has_model, -n.speed, -n.free_bytes, n.node_id))
        used = ranked[:replicas]
        shares = (Share(n.node_id, 0, parts.count - 1, parts.whole, n.free_bytes) for n in used)
        left_out = _explain_whole(parts, everyone, {node.node_id for node in used})
        return Plan(parts.count, True, tuple(shares), tuple(left_out), 0)
    best = _nowhere(parts, everyone)
    for node in _coordinators(everyone):
        plan = _split(parts, everyone, node)
        if plan.unserved < best.unserved:
            best = plan
        if not plan.unserved:
            break
    return best


def make_split(shape: Shape, holders: Iterable[Holder], coordinator: str) -> Plan:
    """Split a model over nodes, whether it fits on one or not, with a given coordinator."""
    parts = _Parts(shape, shape.context_length)
    everyone = sorted(holders, key=lambda node: node.node_id)
    found = [node for node in _coordinators(everyone) if node.node_id == coordinator]
    return _split(parts, everyone, found[0]) if found else _nowhere(parts, everyone)


def _coordinators(everyone: Sequence[Holder]) -> list[Holder]:
    """Return the nodes that could coordinate a split, the preferred one first.

    If no node is known to have the file, every node counts as if it had.
    """
    able = [node for node in everyone if not node.barred and node.rpc_build]
    return [node for node in able if node.has_model] or able


class _Parts:
    """The layers, with the parts of the model and of its engine that go with them."""

    def __init__(self, shape: Shape, context_length: int) -> None:
        self.count: Final = len(shape.layer_bytes)
        buffers = shape.buffers
        kept = shape.position_bytes * context_length + buffers.recent_bytes
        self._cache = -(-kept // self.count)  # per layer, rounded up
        self._sums = [0]
        for weights in shape.layer_bytes:
            self._sums.append(self._sums[-1] + weights + self._cache)
        self._shape = shape
        self._output = shape.output_bytes + (shape.embedding_bytes if shape.is_tied else 0)
        self._transfer = int(max(shape.layer_bytes) * _TRANSFER_SHARE)
        self.coordinator: Final = (
            shape.embedding_bytes + buffers.process_bytes + buffers.compute_bytes
        )
        """What the coordinator holds besides layers: it also does the sampling."""
        self.whole: Final = self.coordinator + self._sums[-1] + shape.output_bytes
        """What a node holds that has everything."""

    def weight(self, first: int, end: int) -> int:
        """Return the bytes of the layers from `first` up to but not including `end`."""
        return self._sums[end] - self._sums[first]

    def memory(self, first: int, end: int, *, coordinates: bool) -> int:
        """Return the memory that a node needs for these layers."""
        if coordinates:
            return self.whole if end == self.count else self.coordinator + self.weight(first, end)
        cache = self._cache * (end - first)
        output = self._output if end == self.count else 0  # it goes with the last layer
        weights = self.weight(first, end) - cache + output
        # A tensor arrives before there is a cache and a buffer.
        later = cache + self._shape.buffers.compute_bytes
        return _WORKER_BYTES + weights + max(self._transfer, output, later)


def _nowhere(parts: _Parts, everyone: Sequence[Holder]) -> Plan:
    """Return the plan of a model that no node can coordinate."""
    left_out = tuple(
        LeftOut(n.node_id, _bar(parts, n) or _no_build(n, None) or _lacks(parts, n))
        for n in everyone
    )
    return Plan(parts.count, False, (), left_out, parts.count)


def _split(parts: _Parts, everyone: Sequence[Holder], coordinator: Holder) -> Plan:
    """Split the model over as few nodes as can hold it, so that the slowest part is fastest.

    If all nodes together cannot hold it, split it over all of them, from the first layer on.
    """
    workers = [
        node
        for node in everyone
        if not node.barred and node.rpc_build == coordinator.rpc_build and node != coordinator
    ]
    if _lacks(parts, coordinator):
        return _nowhere(parts, everyone)
    nodes, cuts = _choose(parts, coordinator, workers)
    if cuts[-1] == parts.count:
        cuts = _balance(parts, nodes, cuts)
    shares = [
        Share(
            node.node_id,
            first,
            end - 1,
            parts.memory(first, end, coordinates=node is coordinator),
            node.free_bytes,
        )
        for node, first, end in zip(nodes, [0, *cuts], cuts, strict=False)
        if end > first
    ]
    used = {coordinator.node_id, *(share.node_id for share in shares)}
    return Plan(
        layers=parts.count,
        whole=False,
        shares=tuple(shares),
        left_out=tuple(_explain_split(parts, everyone, used, coordinator)),
        unserved=parts.count - cuts[-1],
        coordinator=coordinator.node_id,
        coordinator_bytes=parts.memory(0, cuts[0], coordinates=True),
    )


def _choose(
    parts: _Parts, coordinator: Holder, workers: Sequence[Holder]
) -> tuple[list[Holder], list[int]]:
    """Return as few nodes as can hold the model, in order, with valid cuts.

    The largest worker is the last one, because it also holds the output.
    """
    largest = sorted(workers, key=lambda n: (-n.free_bytes, -n.speed, n.node_id))[:_WORKERS]
    nodes = [coordinator]
    cuts = _fill(parts, nodes, [float("inf")])
    for count in range(1, len(largest) + 1):
        nodes = [coordinator, *reversed(largest[:count])]
        cuts = _fill(parts, nodes, [float("inf")] * len(nodes))
        if cuts[-1] == parts.count:
            break
    return nodes, cuts


def _balance(parts: _Parts, nodes: Sequence[Holder], cuts: list[int]) -> list[int]:
    """Return the cuts with the least time in the slowest part; `cuts` are valid ones."""
    speeds = _speeds(nodes)
    low, high = 0.0, parts.whole / min(speeds)
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

    Args:
        parts: The model.
        nodes: The coordinator, then the workers.
        budgets: The bytes of layers that each may have.

    Returns:
        For each node, the layer after its last one.
    """
    ends, end = [], 0
    for number, (node, budget) in enumerate(zip(nodes, budgets, strict=True)):
        first = end
        while (
            end < parts.count
            and parts.memory(first, end + 1, coordinates=number == 0) <= node.free_bytes
            and parts.weight(first, end + 1) <= budget
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


def _explain_whole(parts: _Parts, everyone: Sequence[Holder], used: set[str]) -> Iterator[LeftOut]:
    for node in everyone:
        if node.node_id not in used:
            why = node.barred or _too_small(node, "the model", parts.whole)
            yield LeftOut(node.node_id, why or "there are enough replicas")


def _explain_split(
    parts: _Parts, everyone: Sequence[Holder], used: set[str], coordinator: Holder
) -> Iterator[LeftOut]:
    for node in everyone:
        if node.node_id not in used:
            why = _bar(parts, node) or _no_build(node, coordinator)
            yield LeftOut(node.node_id, why or "the others hold all layers")


def _bar(parts: _Parts, node: Holder) -> str:
    """Return why a node cannot hold even one layer; empty if it can."""
    least = min(parts.memory(n, n + 1, coordinates=False) for n in range(parts.count))
    return node.barred or _too_small(node, "one layer", least)


def _too_small(node: Holder, what: str, needed: int) -> str:
    if node.free_bytes >= needed:
        return ""
    return f"{what} needs {mebibytes(needed)}, it has {mebibytes(node.free_bytes)} free"


def _lacks(parts: _Parts, node: Holder) -> str:
    """Return why a node cannot coordinate; empty if it can."""
    return _too_small(node, "a coordinator of it", parts.coordinator)


def _no_build(node: Holder, coordinator: Holder | None) -> str:
    """Return why a node's build is of no use to the coordinator; empty if it is."""
    if not node.rpc_build:
        return "it offers no worker: set --llama-server to a build with RPC"
    if coordinator is not None and node.rpc_build != coordinator.rpc_build:
        return f"its build is {node.rpc_build}, not {coordinator.rpc_build} like the coordinator's"
    return ""


def mebibytes(count: int) -> str:
    """Format a size for a person."""
    return f"{count / 2**20:,.0f} MiB"
