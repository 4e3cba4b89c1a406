"""The nodes as holders of layers, out of their offers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from node.routing.offer import Offer, OfferedModel
from shared.events.node import NodeState

_SPARE: Final = 1 / 8
"""The share of a node's memory that stays free for the rest of its machine; a guess."""
_UNKNOWN_ENGINE_BYTES: Final = 128 * 2**20
"""Memory of an engine on a node of a version that does not report it."""


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
