"""Where a model's layers are: all on this node, or split over several."""

from dataclasses import dataclass
from typing import Self

from node.engine.protocol import Described


@dataclass(frozen=True)
class Stage:
    """The layers of a split model that one node holds."""

    node_id: str
    first: int
    end: int
    """The layer after its last one. The first stage, which has the embedding, may have no layers.
    """
    memory_bytes: int
    """All that it takes there, an estimate."""

    @property
    def layers(self) -> int:
        """How many layers it has."""
        return self.end - self.first


@dataclass(frozen=True)
class Place:
    """Where a model is, or is about to be."""

    layers: int
    """How many of them this node holds."""
    weights_bytes: int
    """The weights that this node holds."""
    held_bytes: int
    """All the memory that the model takes on this node."""
    stages: tuple[Stage, ...] = ()
    """The parts in order, this node's first; empty if the whole model is here."""
    remote_bytes: int = 0
    """The weights that go to other nodes."""

    @classmethod
    def whole(cls, described: Described) -> Self:
        """Return the place of a model that is wholly on this node."""
        return cls(described.layers, described.size_bytes, described.needed_bytes)
