"""The formats of the journal's files, logs and snapshots, and the reader of a log.

Numbers are little-endian. A log is its header (8 bytes magic, u32 format version), then records:
u32 length of the payload, u32 CRC-32 of the payload started from the kind, u8 kind, the payload.
A snapshot is 8 bytes magic, u32 format version, u32 CRC-32, u64 length of the payload, the payload.
"""

import re
import struct
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Final
from zlib import crc32

from exporter.errors import ExporterError

VERSION: Final = 1
RECORD_BYTES: Final = 4 * 1024 * 1024
"""The longest payload of a record, well above `shared.wire.MESSAGE_BYTES`."""
LOG_HEADER: Final = struct.Struct("<8sI")
RECORD_HEADER: Final = struct.Struct("<IIB")
SNAPSHOT_HEADER: Final = struct.Struct("<8sIIQ")

_LOG_MAGIC: Final = b"dllm-log"
_SNAPSHOT_MAGIC: Final = b"dllmsnap"
_KEPT: Final = 1
_SKIPPED: Final = 2
"""A record that recovery skips. No kind is 0, so that a tail of zeros after a power cut is not read
as empty records."""
_BLOCK_BYTES: Final = 1024 * 1024


class FormatError(ExporterError):
    """A file is damaged, of another kind, or from a newer exporter."""


def log_path(directory: Path, generation: int) -> Path:
    """Return the path of the log that follows the snapshot of the same generation."""
    return directory / f"journal-{generation}.log"


def snapshot_path(directory: Path, generation: int) -> Path:
    """Return the path of the snapshot that precedes the log of the same generation."""
    return directory / f"snapshot-{generation}.msgpack"


def log_generations(directory: Path) -> list[int]:
    """Return the generations that have a log, oldest first."""
    return _generations(directory, "journal-", ".log")


def snapshot_generations(directory: Path) -> list[int]:
    """Return the generations that have a snapshot, oldest first."""
    return _generations(directory, "snapshot-", ".msgpack")


def pack_log_header() -> bytes:
    """Return the header of a log."""
    return LOG_HEADER.pack(_LOG_MAGIC, VERSION)


def pack_record(payload: bytes) -> bytes:
    """Return a payload packed as a record.

    Raises:
        ValueError: The payload is longer than `RECORD_BYTES`.
    """
    length = len(payload)
    if length > RECORD_BYTES:
        raise ValueError(f"a record of {length} bytes is longer than {RECORD_BYTES}")
    return RECORD_HEADER.pack(length, crc32(payload, _KEPT), _KEPT) + payload


def pack_skipped_header(payload: bytes) -> bytes:
    """Return a header that, written over a record's own, makes readers skip it."""
    return RECORD_HEADER.pack(len(payload), crc32(payload, _SKIPPED), _SKIPPED)


def pack_snapshot_header(payload: bytes) -> bytes:
    """Return the header of a snapshot with this payload."""
    return SNAPSHOT_HEADER.pack(_SNAPSHOT_MAGIC, VERSION, crc32(payload), len(payload))


def read_snapshot(path: Path) -> bytes:
    """Return the payload of a snapshot.

    Raises:
        FormatError: The file is cut, damaged or from a newer exporter.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        header = file.read(SNAPSHOT_HEADER.size)
        if len(header) < SNAPSHOT_HEADER.size:
            raise FormatError(f"{path} is cut short")
        magic, version, checksum, length = SNAPSHOT_HEADER.unpack(header)
        _check_header(path, _SNAPSHOT_MAGIC, magic, version)
        # The size first: a damaged length must not cause an allocation of that size.
        if path.stat().st_size != len(header) + length:
            raise FormatError(f"{path} is cut short")
        payload = file.read()
    if crc32(payload) != checksum:
        raise FormatError(f"{path} is damaged")
    return payload


class LogReader:
    """Read a log up to its end or its first damage.

    After a damaged record the framing is lost and later records cannot be located with certainty,
    so the rest of the file counts as damaged.

    Args:
        path: Of the log, for messages.
        file: The log, unbuffered, at its start.

    Raises:
        FormatError: The file is not a log, its header is incomplete, or a newer exporter wrote it.
    """

    good_bytes: int
    """End of the last complete record read."""

    def __init__(self, path: Path, file: FileIO) -> None:
        header = file.read(LOG_HEADER.size)
        if len(header) < LOG_HEADER.size:
            raise FormatError(f"{path} is cut short")
        magic, version = LOG_HEADER.unpack(header)
        _check_header(path, _LOG_MAGIC, magic, version)
        self._file = file
        self.good_bytes = len(header)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yield offset and payload of each record that is not marked as skipped."""
        block = b""
        while more := self._file.read(_BLOCK_BYTES):
            block += more
            start = self.good_bytes
            yield from self._read_block(block)
            block = block[self.good_bytes - start :]
            if _is_damaged(block):
                return

    def _read_block(self, block: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the complete records of a block that starts at `good_bytes`."""
        start = self.good_bytes
        unpack, header_bytes = RECORD_HEADER.unpack_from, RECORD_HEADER.size
        at, last = 0, len(block) - header_bytes
        while at <= last:
            length, checksum, kind = unpack(block, at)
            begin = at + header_bytes
            end = begin + length
            payload = block[begin:end]
            if len(payload) != length or crc32(payload, kind) != checksum:
                return
            if kind == _KEPT:
                self.good_bytes = start + end
                yield start + at, payload
            elif kind == _SKIPPED:
                self.good_bytes = start + end
            else:
                return
            at = end


def _is_damaged(rest: bytes) -> bool:
    """Return whether the unread rest of a block can never become a record."""
    if len(rest) < RECORD_HEADER.size:
        return False
    length: int = RECORD_HEADER.unpack_from(rest)[0]
    return length > RECORD_BYTES or len(rest) >= RECORD_HEADER.size + length


def _generations(directory: Path, prefix: str, suffix: str) -> list[int]:
    # Only our own spelling: the generation in `journal-07.log` would name another file.
    pattern = re.compile(rf"{prefix}([1-9][0-9]{{0,17}}){re.escape(suffix)}")
    matches = (pattern.fullmatch(path.name) for path in directory.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def _check_header(path: Path, expected: bytes, magic: bytes, version: int) -> None:
    if magic != expected:
        raise FormatError(f"{path} has an unknown header")
    if version != VERSION:
        raise FormatError(f"{path} has format {version}, this exporter reads {VERSION}")
