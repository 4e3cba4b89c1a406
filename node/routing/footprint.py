"""The memory that a model's layers need on a node, with the parts that go with them."""

from typing import Final

from node.engine.shape import Shape

_WORKER_BYTES: Final = 16 * 2**20
"""Memory of a worker's process; measured: 4 to 10 MiB."""
_TRANSFER_SHARE: Final = 1 / 2
"""The largest tensor of a layer, as a share of the layer; a guess for every architecture. A worker
holds a tensor twice while it receives it."""


class Footprint:
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
