"""Reads the head of a GGUF file: its fields and the list of its tensors, but no weights.

Format: the GGUF specification of the ggml project. The file is not trusted: each count and length
is compared with the rest of the file before it is used. (The project's own reader, the `gguf`
package, allocates unlimited memory for a file of 50 bytes.)
"""

import array
import dataclasses
import io
import itertools
import math
import struct
import sys
from io import BufferedReader
from typing import Final

from node.engine.gguf_head import DamagedFileError, Head, Tensor, Value, decode
from node.engine.weight_types import WEIGHT_TYPES

HEAD_BYTES: Final = 256 * 2**20
"""A longer head is refused. The largest known one has 20 MB, nearly all of it vocabulary."""
_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_KEY_BYTES: Final = 2**16 - 1
_DIMENSIONS: Final = 4
_ALIGNMENT: Final = 32
_ALIGNMENT_AT_MOST: Final = 2**16
_LEAST_FIELD_BYTES: Final = 8 + 4 + 1
_LEAST_TENSOR_BYTES: Final = 8 + 4 + 8 + 4 + 8
_LENGTH: Final = struct.Struct("<Q")
_LENGTH_BYTES: Final = _LENGTH.size
_BLOCK_BYTES: Final = 2**18

_NUMBERS: Final = dict(enumerate("BbHhIif")) | {7: "?", 10: "Q", 11: "q", 12: "d"}
"""Numeric value types by their `struct` letter; also letters of `array`, except `?`."""
_STRING: Final = 8
_ARRAY: Final = 9


def read_head(file: BufferedReader, size_bytes: int, *, texts: bool = True) -> Head:
    """Read a file from its start.

    Args:
        file: The file.
        size_bytes: Its size.
        texts: Whether to keep lists of texts. A vocabulary has up to a million; to skip them is ten
            times faster than to read them.

    Raises:
        DamagedFileError: It is not a complete GGUF file.
        OSError: It cannot be read.
    """
    reader = _Reader(file, size_bytes, texts=texts)
    _check_kind(reader)
    tensors = reader.count("tensors", reader.integer("Q"), _LEAST_TENSOR_BYTES)
    fields = reader.count("fields", reader.integer("Q"), _LEAST_FIELD_BYTES)
    values = dict(_read_field(reader) for _ in range(fields))
    if len(values) < fields:
        raise DamagedFileError("it contains a field twice")
    found = tuple(_read_tensor(reader) for _ in range(tensors))
    if len({tensor.name for tensor in found}) < tensors:
        raise DamagedFileError("it contains a tensor twice")
    head = Head(values, found, 0)
    alignment = head.number("general.alignment", _ALIGNMENT, _ALIGNMENT_AT_MOST)
    if alignment.bit_count() != 1:
        raise DamagedFileError(f"its alignment is {alignment}")
    data_offset = -(-reader.position // alignment) * alignment
    data_bytes = max(0, size_bytes - data_offset)
    _check_places(found, data_bytes)
    measured = _measure_unknown(found, data_bytes)
    if sum(tensor.size_bytes for tensor in measured) > data_bytes:
        raise DamagedFileError("its tensors are larger than the file")
    return Head(values, measured, data_offset)


class _Reader:
    """Reads values from a file; a value is never larger than the rest of the file."""

    def __init__(self, file: BufferedReader, size_bytes: int, *, texts: bool) -> None:
        self._file = file
        self._size = size_bytes
        self._keeps_texts = texts
        self.position = 0

    def take(self, count: int) -> bytes:
        if not self._size:
            raise DamagedFileError("it is empty")
        if count > (left := self._size - self.position):
            raise DamagedFileError(f"it claims {count} bytes but {left} are left")
        if self.position + count > HEAD_BYTES:
            raise DamagedFileError(f"its header is longer than {HEAD_BYTES // 2**20} MiB")
        taken = self._file.read(count)
        if len(taken) < count:
            raise DamagedFileError("it was truncated while it was read")
        self.position += count
        return taken

    def number(self, letter: str) -> bool | int | float:
        (value,) = struct.unpack(f"<{letter}", self.take(struct.calcsize(f"<{letter}")))
        return value  # type: ignore[no-any-return]  # struct's letters are not types

    def integer(self, letter: str) -> int:
        return int(self.number(letter))

    def count(self, what: str, claimed: int, least_bytes: int) -> int:
        """Return the count; raise if that many things of their least size do not fit."""
        if claimed * least_bytes > self._size - self.position:
            raise DamagedFileError(f"it claims {claimed} {what} but is too small for them")
        return claimed

    def string(self) -> bytes:
        return self.take(self.integer("Q"))

    def strings(self, count: int) -> list[bytes]:
        """Return that many strings; none if they are not kept."""
        if self._keeps_texts:
            return [self.string() for _ in range(count)]
        self._skip_strings(count)
        return []

    def _skip_strings(self, count: int) -> None:
        block, at = b"", 0
        for _ in range(count):
            while at + _LENGTH_BYTES > len(block):
                block, at = block[at:] + self._take_some(), 0
            (length,) = _LENGTH.unpack_from(block, at)
            at += _LENGTH_BYTES + length
            if at > len(block):
                self._skip(at - len(block))
                block, at = b"", 0
        self._skip(at - len(block))

    def _take_some(self) -> bytes:
        """Return the next bytes, at least one."""
        left = min(self._size, HEAD_BYTES) - self.position
        return self.take(max(1, min(_BLOCK_BYTES, left)))

    def _skip(self, count: int) -> None:
        """Skip bytes; a negative number goes back."""
        if count > (left := self._size - self.position):
            raise DamagedFileError(f"it claims {count} bytes but {left} are left")
        self._file.seek(count, io.SEEK_CUR)
        self.position += count

    def key(self) -> str:
        length = self.integer("Q")
        if length > _KEY_BYTES:
            raise DamagedFileError(f"it claims a name of {length} bytes")
        return decode(self.take(length), "a name")


def _check_kind(reader: _Reader) -> None:
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise DamagedFileError("it does not begin with GGUF")
    version = reader.integer("I")
    if int.from_bytes(version.to_bytes(4), "little") in _VERSIONS:
        raise DamagedFileError("it is written for big-endian machines")
    if version not in _VERSIONS:
        raise DamagedFileError(f"its version is {version}, not 2 or 3")


def _read_field(reader: _Reader) -> tuple[str, Value]:
    key = reader.key()
    return key, _read_value(reader, key, reader.integer("I"))


def _read_value(reader: _Reader, key: str, kind: int) -> Value:
    if kind == _STRING:
        return reader.string()
    if kind == _ARRAY:
        return _read_array(reader, key)
    if kind in _NUMBERS:
        return reader.number(_NUMBERS[kind])
    raise DamagedFileError(f"{key[:100]!r} is of type {kind}")


def _read_array(reader: _Reader, key: str) -> Value:
    kind, length = reader.integer("I"), reader.integer("Q")
    if kind == _STRING:
        return reader.strings(reader.count("texts", length, _LENGTH_BYTES))
    if kind not in _NUMBERS:  # lists of lists are allowed, but no model has one
        raise DamagedFileError(f"{key[:100]!r} is a list of type {kind}")
    letter = _NUMBERS[kind].replace("?", "B")
    numbers = array.array(letter, reader.take(length * struct.calcsize(f"<{letter}")))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _read_tensor(reader: _Reader) -> Tensor:
    name = reader.key()
    shown = repr(name[:100])
    count = reader.integer("I")
    if not 1 <= count <= _DIMENSIONS:
        raise DamagedFileError(f"tensor {shown} has {count} dimensions")
    dimensions = tuple(reader.integer("Q") for _ in range(count))
    number, offset = reader.integer("I"), reader.integer("Q")
    kind = WEIGHT_TYPES.get(number)
    if kind is None:
        return Tensor(name, f"type {number}", 0, offset, dimensions)
    if dimensions[0] % kind.block_weights:
        raise DamagedFileError(
            f"a row of tensor {shown} does not consist of whole blocks of {kind.name}"
        )
    size = math.prod(dimensions) // kind.block_weights * kind.block_bytes
    return Tensor(name, kind.name, size, offset, dimensions)


def _check_places(tensors: tuple[Tensor, ...], data_bytes: int) -> None:
    """Raise DamagedFileError unless all weights are in the file."""
    for tensor in tensors:
        if not tensor.size_bytes and not tensor.kind.startswith("type"):
            raise DamagedFileError(f"tensor {tensor.name[:100]!r} is empty")
        if tensor.offset + tensor.size_bytes > data_bytes:
            raise DamagedFileError(f"it ends before tensor {tensor.name[:100]!r} does")


def _measure_unknown(tensors: tuple[Tensor, ...], data_bytes: int) -> tuple[Tensor, ...]:
    """Return the tensors with a size for those of an unknown type."""
    if all(tensor.size_bytes for tensor in tensors):
        return tensors
    starts = [*sorted({tensor.offset for tensor in tensors}), data_bytes]
    ends = dict(itertools.pairwise(starts))
    return tuple(
        tensor
        if tensor.size_bytes
        else dataclasses.replace(tensor, size_bytes=ends[tensor.offset] - tensor.offset)
        for tensor in tensors
    )
