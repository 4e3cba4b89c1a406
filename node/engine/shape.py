"""The sizes of a model's parts."""

from pathlib import Path

import msgspec
import trio

from node.engine.choice import Wanted, choose
from node.engine.describe import read_facts


class Shape(msgspec.Struct, frozen=True):
    """Sizes of a model's parts, in bytes."""

    layer_bytes: tuple[int, ...]
    """Weights of each layer, in order."""
    embedding_bytes: int
    """The weights before the first layer."""
    output_bytes: int
    """The weights after the last layer."""
    is_tied: bool
    """Whether the output after the last layer uses the embedding too."""
    position_bytes: int
    """Memory per position of the context, for all layers and slots together."""
    context_length: int

    @property
    def size_bytes(self) -> int:
        """The size of all weights together."""
        return self.embedding_bytes + sum(self.layer_bytes) + self.output_bytes


def even_shape(size_bytes: int, layers: int, position_bytes: int, context_length: int) -> Shape:
    """Return a shape from a model's total size, with layers of equal size."""
    each = (size_bytes // layers,) * layers
    return Shape(each, 0, size_bytes % layers, False, position_bytes, context_length)


def read_shape(path: Path) -> Shape:
    """Read a model's shape from its file's header, in a process that may die from it.

    Raises:
        UnusableModelError: The file does not exist, or no engine runs it.
        OSError: No process, pipe or memory is available now.
    """
    facts = trio.run(read_facts, path)
    described = choose(facts, Wanted(), path)
    return Shape(
        layer_bytes=facts.layer_bytes,
        embedding_bytes=facts.embedding_bytes,
        output_bytes=facts.output_bytes,
        is_tied=facts.is_tied,
        position_bytes=described.position_bytes * described.slots,
        context_length=described.context_length,
    )
