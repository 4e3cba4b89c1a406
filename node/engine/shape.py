"""The sizes of a model's parts, read by a child process because files may be hostile."""

import subprocess
import sys
from typing import Final

import msgspec

_READ_SECONDS: Final = 60.0


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
    """Memory per position of the context, for all layers together."""
    context_length: int

    @property
    def size_bytes(self) -> int:
        """The size of all weights together."""
        return self.embedding_bytes + sum(self.layer_bytes) + self.output_bytes


def even_shape(size_bytes: int, layers: int, position_bytes: int, context_length: int) -> Shape:
    """Return a shape from a model's total size, with layers of equal size."""
    each = (size_bytes // layers,) * layers
    return Shape(each, 0, size_bytes % layers, False, position_bytes, context_length)


class UnreadableModelError(Exception):
    """The file's header is unusable; the text is one line for a person."""


def read_shape(path: str) -> Shape:
    """Read a model's shape from its file's header, in a child that may die from it.

    Raises:
        UnreadableModelError: The file does not exist, or is not a model that an engine runs.
    """
    command = [sys.executable, "-m", "node.engine.header", path]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            command, capture_output=True, text=True, timeout=_READ_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        message = f"the header of {path} was not read within {_READ_SECONDS:g} s"
        raise UnreadableModelError(message) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        message = lines[-1] if lines else f"the process that read the header of {path} died"
        raise UnreadableModelError(message)
    return msgspec.json.decode(done.stdout, type=Shape)
