"""What a model takes where, layer by layer; asked of a child, for a file may be hostile."""

import subprocess
import sys
from typing import Final

import msgspec

_READ_SECONDS: Final = 60.0


class Shape(msgspec.Struct, frozen=True):
    """Bytes of a model's parts."""

    layer_bytes: tuple[int, ...]
    """Weights of each layer, in their order."""
    embedding_bytes: int
    """What stands before the first layer."""
    output_bytes: int
    """What stands behind the last one."""
    is_tied: bool
    """Whether what stands behind the last layer uses the embedding too."""
    position_bytes: int
    """Memory that each position of the context takes, in all layers together."""
    context_length: int

    @property
    def size_bytes(self) -> int:
        """All weights together."""
        return self.embedding_bytes + sum(self.layer_bytes) + self.output_bytes


def even_shape(size_bytes: int, layers: int, position_bytes: int, context_length: int) -> Shape:
    """Return the shape of a model of which only the whole is known: layers of one size."""
    each = (size_bytes // layers,) * layers
    return Shape(each, 0, size_bytes % layers, False, position_bytes, context_length)


class UnreadableModelError(Exception):
    """The file's header says nothing of use; the text is one line for a person."""


def read_shape(path: str) -> Shape:
    """Read a model's shape from its file's header, in a child that may die of it.

    Raises:
        UnreadableModelError: There is no such file, or it is no model that an engine runs.
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
        message = lines[-1] if lines else f"reading the header of {path} ended a process"
        raise UnreadableModelError(message)
    return msgspec.json.decode(done.stdout, type=Shape)
