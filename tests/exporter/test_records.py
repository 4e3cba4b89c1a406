"""The journal's file formats: records are read as written, and damage is detected."""

from pathlib import Path
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.journal.records import (
    LOG_HEADER,
    RECORD_BYTES,
    RECORD_HEADER,
    FormatError,
    LogReader,
    log_generations,
    pack_log_header,
    pack_record,
    pack_skipped_header,
    pack_snapshot_header,
    read_snapshot,
    snapshot_generations,
)


def read_log(path: Path) -> tuple[list[bytes], int]:
    with path.open("rb", buffering=0) as file:
        reader = LogReader(path, file)
        payloads = [payload for _, payload in reader]
        return payloads, reader.good_bytes


def write_log(path: Path, *payloads: bytes, rest: bytes = b"") -> None:
    path.write_bytes(pack_log_header() + b"".join(map(pack_record, payloads)) + rest)


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024 - 30, 1024 * 1024, RECORD_BYTES])
def test_records_of_any_size_are_read_back(tmp_path: Path, size: int) -> None:
    """Records of any size are read: empty, near a block's end, or four blocks long."""
    path = tmp_path / "journal-1.log"
    payloads = [b"before", b"x" * size, b"after", b"y" * size, b""]
    write_log(path, *payloads)
    assert read_log(path) == (payloads, path.stat().st_size)


def test_too_long_a_record_is_refused() -> None:
    """A record that the reader would take for damage is refused."""
    with pytest.raises(ValueError, match="longer than"):
        pack_record(bytes(RECORD_BYTES + 1))


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(bytes(RECORD_HEADER.size * 500), id="zeros"),
        pytest.param(b"\xff" * 2_000_000, id="absurd length"),
        pytest.param(b"\x01", id="short header"),
        pytest.param(pack_record(b"cut")[:-1], id="short payload"),
        pytest.param(pack_record(b"flip")[:-1] + b"q", id="wrong checksum"),
        pytest.param(pack_record(b"kind")[:8] + b"\x07kind", id="unknown kind"),
    ],
)
def test_reading_ends_at_damage(tmp_path: Path, rest: bytes) -> None:
    """Reading stops at the first damaged byte, even if whole records follow."""
    path = tmp_path / "journal-1.log"
    write_log(path, b"one", b"two", rest=rest + pack_record(b"three"))
    good_bytes = LOG_HEADER.size + 2 * (RECORD_HEADER.size + 3)
    assert read_log(path) == ([b"one", b"two"], good_bytes)


def test_skipped_record_is_passed_over(tmp_path: Path) -> None:
    """Marking a record as skipped hides only that record."""
    path = tmp_path / "journal-1.log"
    write_log(path, b"one", b"two", b"three")
    with path.open("r+b") as file:
        file.seek(LOG_HEADER.size + len(pack_record(b"one")))
        file.write(pack_skipped_header(b"two"))
    assert read_log(path) == ([b"one", b"three"], path.stat().st_size)


@pytest.mark.parametrize("header", [b"", b"dllm", b"not-mine\1\0\0\0", b"dllm-log\2\0\0\0"])
def test_log_with_a_bad_header_is_refused(tmp_path: Path, header: bytes) -> None:
    """Foreign files and newer formats are refused."""
    path = tmp_path / "journal-1.log"
    path.write_bytes(header)
    with pytest.raises(FormatError):
        read_log(path)


def test_snapshot_is_read_back(tmp_path: Path) -> None:
    """A snapshot is read as written."""
    path = tmp_path / "snapshot-1.msgpack"
    path.write_bytes(pack_snapshot_header(b"state") + b"state")
    assert read_snapshot(path) == b"state"


@settings(deadline=None)  # disks differ in speed
@given(position=st.integers(0, 28), bit=st.integers(0, 7), cut=st.booleans())
def test_damaged_snapshot_is_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int, *, cut: bool
) -> None:
    """Every flipped bit and every cut is detected."""
    path = tmp_path_factory.mktemp("damaged") / "snapshot-1.msgpack"
    content = bytearray(pack_snapshot_header(b"state") + b"state")
    if cut:
        del content[position:]
    else:
        content[position] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(FormatError):
        read_snapshot(path)


def test_only_own_names_are_generations(tmp_path: Path) -> None:
    """Files that the journal would name differently are ignored."""
    for name in (
        "journal-10.log",
        "journal-9.log",
        "journal-07.log",
        "journal-x.log",
        "snapshot-3",
    ):
        (tmp_path / name).touch()
    (tmp_path / "snapshot-4.msgpack").touch()
    (tmp_path / "snapshot-5.msgpack.tmp").touch()
    assert log_generations(tmp_path) == [9, 10]
    assert snapshot_generations(tmp_path) == [4]


def test_a_million_records_are_read(tmp_path: Path) -> None:
    """A million records are read; the time is only printed, as machines differ."""
    path = tmp_path / "journal-1.log"
    path.write_bytes(pack_log_header() + pack_record(b"r" * 60) * 1_000_000)
    with path.open("rb", buffering=0) as file:
        begin = perf_counter()
        count = sum(1 for _ in LogReader(path, file))
    print(f"{(perf_counter() - begin) / count * 1e6:.2f} us a record")
    assert count == 1_000_000
