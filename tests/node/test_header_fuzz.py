"""Any change to the header of any architecture is described or refused, quickly."""

import struct
from pathlib import Path
from typing import Final

import gguf
import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.choice import Wanted, choose
from node.engine.model_file import UnusableModelError
from node.engine.reading import read_facts
from tests.random_models import NAMES, random_model

_HEAD_BYTES: Final = 16_000
"""More than any of the models' headers has."""
_FOUR_BYTES: Final = (gguf.GGUFValueType.UINT32, gguf.GGUFValueType.INT32)
_NUMBERS: Final = st.sampled_from([0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1]).map(
    lambda number: struct.pack("<I", number)
) | st.sampled_from([2**32, 2**61, 2**63, 2**64 - 1]).map(lambda number: struct.pack("<Q", number))
_CHANGES: Final = st.lists(
    st.tuples(st.integers(0, _HEAD_BYTES), st.binary(min_size=1, max_size=8) | _NUMBERS),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("name", NAMES)
@hypothesis.settings(
    max_examples=40, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@given(changes=_CHANGES, length=st.integers(0, _HEAD_BYTES) | st.none())
def test_changed_header_is_described_or_refused(
    tmp_path: Path, name: str, changes: list[tuple[int, bytes]], length: int | None
) -> None:
    """No change makes a number that could not be, or an error that is not a refusal."""
    damaged = bytearray(random_model(name).read_bytes())
    for at, written in changes:
        damaged[at : at + len(written)] = written
    check(tmp_path / "m.gguf", bytes(damaged[:length]))


@pytest.mark.parametrize("name", NAMES)
def test_any_number_in_a_field_is_described_or_refused(tmp_path: Path, name: str) -> None:
    """No field of four bytes makes a number that could not be."""
    whole, places = random_model(name).read_bytes(), number_places(random_model(name))
    assert len(places) > 5
    for place in places:
        for number in (0, 1, 2**16, 2**31 - 1, 2**32 - 1):
            written = struct.pack("<I", number)
            check(tmp_path / "m.gguf", whole[:place] + written + whole[place + 4 :])


def number_places(path: Path) -> list[int]:
    """Return where the file has the values of its fields of four bytes."""
    fields = gguf.GGUFReader(path).fields.values()
    numbers = [field for field in fields if field.types and field.types[-1] in _FOUR_BYTES]
    single = [field for field in numbers if len(field.types) == 1 and field.offset]
    return [field.offset + sum(int(part.nbytes) for part in field.parts[:-1]) for field in single]


def check(path: Path, content: bytes) -> None:
    """Read a file that may be damaged, and choose for a machine with 1 GiB."""
    path.write_bytes(content)
    try:
        chosen = choose(read_facts(path), Wanted(), path, 2**30)
    except UnusableModelError as error:
        refused = str(error)
        assert len(refused.splitlines()) == 1
        return
    assert 0 < chosen.size_bytes <= len(content)
    assert 0 < chosen.context_length <= 2**31
    assert 0 <= chosen.position_bytes < 2**53
    assert 0 < chosen.buffer_bytes < 2**63
