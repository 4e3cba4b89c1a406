"""The sizes of a model's parts, by which it is placed on nodes."""

from typing import Final

import msgspec

from node.engine.facts import Facts


class Buffers(msgspec.Struct, frozen=True):
    """Memory that an engine needs besides the weights and the whole context, in bytes."""

    process_bytes: int = 0
    """Of the engine's process: its libraries, the vocabulary, the logits, copies of windows."""
    compute_bytes: int = 0
    """Of an evaluation, on each machine or device that holds layers."""
    recent_bytes: int = 0
    """Windows and states of all slots, spread over the layers."""

    @property
    def total_bytes(self) -> int:
        """All of it, if the model is in one place."""
        return self.process_bytes + self.compute_bytes + self.recent_bytes


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
    buffers: Buffers = Buffers()

    @property
    def size_bytes(self) -> int:
        """The size of all weights together."""
        return self.embedding_bytes + sum(self.layer_bytes) + self.output_bytes


NO_SHAPE: Final = Shape((), 0, 0, False, 0, 0)
"""Of a model whose file was not read."""


def shape_of(facts: Facts, slots: int, context_length: int, buffers: Buffers) -> Shape:
    """Return the shape of a model that is held in this way."""
    return Shape(
        layer_bytes=facts.layer_bytes,
        embedding_bytes=facts.embedding_bytes,
        output_bytes=facts.output_bytes,
        is_tied=facts.is_tied,
        position_bytes=facts.cache.position_bytes * slots,
        context_length=context_length,
        buffers=buffers,
    )


def even_shape(size_bytes: int, layers: int, position_bytes: int, context_length: int) -> Shape:
    """Return a shape from a model's total size, with layers of equal size."""
    each = (size_bytes // layers,) * layers
    return Shape(each, 0, size_bytes % layers, False, position_bytes, context_length)
