"""The sizes of a model's parts are read from its header."""

import os
from pathlib import Path

import pytest

from node.demo import MODEL_PATH
from node.engine.model_file import UnusableModelError
from node.routing.explain import read_shape


def test_shape_comes_from_the_header() -> None:
    """Every byte of the demo model's tensors is in one part."""
    shape = read_shape(MODEL_PATH)
    assert len(shape.layer_bytes) == 6
    assert shape.size_bytes == 2_467_200
    assert len(set(shape.layer_bytes)) == 1
    assert shape.embedding_bytes > 0 < shape.output_bytes


@pytest.mark.parametrize(("path", "says"), [("/etc/passwd", "damaged"), ("/no/such", "no model")])
def test_hostile_file_is_one_line(path: str, says: str) -> None:
    """A hostile file is one line, from a separate process."""
    with pytest.raises(UnusableModelError, match=says) as caught:
        read_shape(Path(path))
    assert len(str(caught.value).splitlines()) == 1


def test_pipe_is_one_line(tmp_path: Path) -> None:
    """A pipe is one line, and is not waited for."""
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(UnusableModelError, match="no model file"):
        read_shape(tmp_path / "m.gguf")
