"""The models of random weights are models as the format's own reader sees them."""

import gguf
import pytest

from tests.random_models import NAMES, random_model


@pytest.mark.parametrize("name", NAMES)
def test_model_is_written_once(name: str) -> None:
    """A second call finds the file of the first one, whole."""
    path = random_model(name)
    written = path.stat()
    assert random_model(name).stat().st_mtime_ns == written.st_mtime_ns
    last = gguf.GGUFReader(path).tensors[-1]
    assert last.data_offset + last.n_bytes <= written.st_size < 4 * 2**20
