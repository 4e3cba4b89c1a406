"""Hostile model files are refused at once, with little memory."""

import contextlib
import io
import os
import resource
import socket
import struct
import time
from pathlib import Path
from typing import Final

import gguf
import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.demo import MODEL_PATH
from node.engine import reading
from node.engine.ctransformers.header import read_header
from node.engine.gguf_file import read_head
from node.engine.gguf_head import DamagedFileError, Head
from node.engine.limits import bounded
from node.engine.model_file import UnusableModelError
from node.engine.weight_types import WEIGHT_TYPES
from node.routing.explain import read_shape

_DEMO: Final = MODEL_PATH.read_bytes()
_HEAD_BYTES: Final = 40_000
"""More than the demo model's header has."""
_SECONDS: Final = 5.0
"""A thousand times the usual time, for a machine under load."""
_MEMORY_KIBIBYTES: Final = 64 * 1024


def text(value: str) -> bytes:
    """Return a text as GGUF writes it."""
    return struct.pack("<Q", len(value)) + value.encode()


def head(fields: bytes = b"", *, count: int = 1, tensors: int = 0, version: int = 3) -> bytes:
    """Return the beginning of a file."""
    return b"GGUF" + struct.pack("<IQQ", version, tensors, count) + fields


def array(kind: int, length: int, content: bytes = b"") -> bytes:
    """Return a field that is a list."""
    return text("a.b") + struct.pack("<IIQ", 9, kind, length) + content


def tensor(
    *dimensions: int, kind: int = 0, offset: int = 0, count: int | None = None, name: str = "t"
) -> bytes:
    """Return the entry of one tensor."""
    number = len(dimensions) if count is None else count
    return (
        text(name)
        + struct.pack(f"<I{len(dimensions)}Q", number, *dimensions)
        + struct.pack("<IQ", kind, offset)
    )


LIES: Final = {
    "a list of 2**61 texts": head(array(8, 2**61)),
    "a list of 2**61 bytes": head(array(0, 2**61)),
    "a list of 2**64-1 doubles": head(array(12, 2**64 - 1)),
    "a list of lists": head(array(9, 2**40)),
    "a list of an unknown type": head(array(77, 1)),
    "lists in lists in lists": head(array(9, 1, struct.pack("<IQ", 9, 1) * 1000)),
    "a text of 2**63 bytes": head(text("a") + struct.pack("<IQ", 8, 2**63)),
    "a name of 2**63 bytes": head(struct.pack("<Q", 2**63)),
    "a name longer than names are": head(struct.pack("<Q", 2**17) + bytes(2**18)),
    "2**63 fields": head(count=2**63),
    "2**63 tensors": head(count=0, tensors=2**63),
    "a field of an unknown type": head(text("a") + struct.pack("<I", 99)),
    "a field twice": head((text("a") + struct.pack("<IB", 0, 1)) * 2, count=2),
    "a name that is no text": head(struct.pack("<Q", 2) + b"\xff\xff" + bytes(40)),
    "a tensor of no dimensions": head(tensor(), count=0, tensors=1),
    "a tensor of 2**31 dimensions": head(tensor(count=2**31), count=0, tensors=1),
    "a tensor whose dimensions overflow": head(tensor(2**40, 2**40), count=0, tensors=1),
    "a tensor behind the end": head(tensor(4, offset=2**60), count=0, tensors=1),
    "an empty tensor": head(tensor(0), count=0, tensors=1) + bytes(99),
    "a broken block": head(tensor(33, kind=8), count=0, tensors=1) + bytes(99),
    "an alignment of 2**31": head(text("general.alignment") + struct.pack("<II", 4, 2**31)),
    "an alignment of 0": head(text("general.alignment") + struct.pack("<II", 4, 0)),
    "an alignment of 3": head(text("general.alignment") + struct.pack("<II", 4, 3)),
    "another version": head(version=9),
    "the other byte order": head(version=0x03000000),
    "nothing but a beginning": head(count=0),
}


@pytest.mark.parametrize("lie", LIES)
def test_lie_costs_neither_time_nor_memory(tmp_path: Path, lie: str) -> None:
    """A small file with any claim is refused at once, in one line, with little memory."""
    path = tmp_path / "m.gguf"
    path.write_bytes(LIES[lie])
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(UnusableModelError) as refused:
        read_header(path)
    assert "\n" not in str(refused.value)
    assert time.monotonic() - began < _SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < _MEMORY_KIBIBYTES


def test_weights_of_an_unknown_type_that_overlap_others_are_refused() -> None:
    """The size of an unknown type is the distance to the next tensor; the sum must still fit."""
    both = tensor(64) + tensor(64, kind=77, name="u")
    content = head(both, count=0, tensors=2) + bytes(300)
    with pytest.raises(DamagedFileError, match="larger than the file"):
        read_head(io.BufferedReader(io.BytesIO(content)), len(content))


CLAIMS: Final = {
    "llama.block_count": 20_000_000,
    "llama.context_length": 2**32 - 1,
    "llama.embedding_length": 2**32 - 1,
    "llama.attention.head_count": 2**32 - 1,
    "llama.attention.head_count_kv": 2**31,
}


@pytest.mark.parametrize("key", CLAIMS)
def test_number_beyond_the_model_is_refused(tmp_path: Path, key: str) -> None:
    """A number that sizes memory must be possible for a model."""
    at = _DEMO.index(key.encode()) + len(key) + 4
    path = tmp_path / "m.gguf"
    path.write_bytes(_DEMO[:at] + struct.pack("<I", CLAIMS[key]) + _DEMO[at + 4 :])
    with pytest.raises(UnusableModelError):
        read_header(path)


def replace_bytes(changes: list[tuple[int, bytes]]) -> bytes:
    """Return the demo model with other bytes in its header."""
    damaged = bytearray(_DEMO)
    for at, written in changes:
        damaged[at : at + len(written)] = written
    return bytes(damaged)


_NUMBERS: Final = st.sampled_from([0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1]).map(
    lambda number: struct.pack("<I", number)
) | st.sampled_from([2**32, 2**61, 2**63, 2**64 - 1]).map(lambda number: struct.pack("<Q", number))


@hypothesis.settings(
    max_examples=150,
    deadline=_SECONDS * 1000,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, _HEAD_BYTES), st.binary(min_size=1, max_size=8) | _NUMBERS),
        min_size=1,
        max_size=4,
    ),
    length=st.integers(0, _HEAD_BYTES) | st.just(len(_DEMO)),
)
def test_changed_header_is_described_or_refused(
    tmp_path: Path, changes: list[tuple[int, bytes]], length: int
) -> None:
    """A real header with any change is described or refused, quickly."""
    path = tmp_path / "m.gguf"
    path.write_bytes(replace_bytes(changes)[:length])
    with contextlib.suppress(UnusableModelError):
        described = read_header(path).described
        assert described.layers <= _HEAD_BYTES
        assert described.size_bytes <= len(_DEMO)
        assert described.position_bytes < 2**53


@pytest.fixture
def odd_file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return something in the file system that is not a regular file."""
    path = tmp_path / "m.gguf"
    match request.param:
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "dangling link":
            path.symlink_to(tmp_path / "nothing")
        case "loop of links":
            path.symlink_to(path)
        case "name too long":
            path = tmp_path / ("m" * 300)
        case "NUL in its name":
            path = tmp_path / "m\0.gguf"
        case "socket":
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(path))
    return path


@pytest.mark.parametrize(
    "odd_file",
    [
        "pipe",
        "directory",
        "device",
        "dangling link",
        "loop of links",
        "name too long",
        "NUL in its name",
        "socket",
    ],
    indirect=True,
)
def test_what_is_no_file_is_not_opened(odd_file: Path) -> None:
    """Pipes and devices are refused without being opened."""
    with bounded(_SECONDS, 2**31), pytest.raises(UnusableModelError, match="set --model"):
        read_header(odd_file)


def test_reading_ends_at_its_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Reading is limited in time and memory; a file above the limits is refused."""

    def hang(*_: object, **__: object) -> Head:
        while True:
            time.sleep(0.01)

    def grow(*_: object, **__: object) -> Head:
        return bytearray(2**40)  # type: ignore[return-value]

    path = tmp_path / "m.gguf"
    path.touch()
    monkeypatch.setattr(reading, "SECONDS", 0.05)
    for fault, says in ((hang, "was not read within"), (grow, "needs more than")):
        monkeypatch.setattr(reading, "read_head", fault)
        with pytest.raises(UnusableModelError, match=says):
            read_header(path)


def test_limits_go_with_their_block() -> None:
    """The limits end with their block."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with bounded(60, 2**31):
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == 2**31
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_part_of_a_model_says_so(tmp_path: Path) -> None:
    """A part of a split model is refused with the names of the missing parts."""
    fields = text("split.count") + struct.pack("<IH", 2, 3)
    fields += text("split.no") + struct.pack("<IH", 2, 0)
    path = tmp_path / "big-00001-of-00003.gguf"
    path.write_bytes(head(fields, count=2))
    (tmp_path / "big-00003-of-00003.gguf").touch()
    with pytest.raises(UnusableModelError) as refused:
        read_header(path)
    for part in ("part 1 of 3", "parts are missing: copy big-00002-of-00003.gguf beside"):
        assert part in str(refused.value)


def test_types_of_weights_are_the_formats() -> None:
    """The table of weight types equals that of the ggml project's own package."""
    sizes = gguf.GGML_QUANT_SIZES
    known = {int(kind): (kind.name, *sizes[kind]) for kind in gguf.GGMLQuantizationType}
    assert known == {number: tuple(kind) for number, kind in WEIGHT_TYPES.items()}


@pytest.mark.parametrize("lie", ["a list of 2**61 texts", "2**63 tensors"])
def test_plan_of_a_hostile_file_is_one_line(tmp_path: Path, lie: str) -> None:
    """`plan` reads a header in a separate process within the same limits."""
    path = tmp_path / os.fsdecode(b"m\xff.gguf")
    path.write_bytes(LIES[lie])
    with pytest.raises(UnusableModelError, match=r"m\\xff.gguf is damaged") as refused:
        read_shape(path)
    assert len(str(refused.value).splitlines()) == 1


def test_head_refuses_values_of_another_kind() -> None:
    """A field of another type than expected is damage."""
    found = Head({"n": -1, "t": b"\xff", "l": 1}, (), 0)
    for read in (
        lambda: found.number("n"),
        lambda: found.number("t"),
        lambda: found.text("n"),
        lambda: found.text("t"),
        lambda: found.texts("l"),
        lambda: found.numbers("l"),
    ):
        with pytest.raises(DamagedFileError):
            read()
