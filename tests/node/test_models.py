"""Models from the settings, and the memory that they need."""

from pathlib import Path

import msgspec
import pytest

from node.errors import StartupError
from node.serving.catalogue import Model, find_shortage, list_models
from tests.node.memory_child import DESCRIBED

MEBIBYTE = 2**20


def test_models_are_named_after_their_files() -> None:
    """A model is named after its file, in plain characters, or by a name before the path."""
    models = list_models(["/m/tiny llama.Q8_0.gguf", "chat=/m/x=1.gguf"], None)
    assert models == [
        Model("tiny-llama.Q8_0", Path("/m/tiny llama.Q8_0.gguf"), resident=True),
        Model("chat", Path("/m/x=1.gguf"), resident=True),
    ]


def test_directory_gives_the_rest(tmp_path: Path) -> None:
    """The models of the directory wait on disk, except the named ones."""
    for name in ("a.gguf", "b.gguf", "notes.txt"):
        (tmp_path / name).touch()
    models = list_models([str(tmp_path / "a.gguf")], tmp_path)
    assert models == [
        Model("a", tmp_path / "a.gguf", resident=True),
        Model("b", tmp_path / "b.gguf", resident=False),
    ]


@pytest.mark.parametrize(
    ("wanted", "directory", "complaint"),
    [
        (["/m/a.gguf", "/n/a.gguf"], None, "both be called a"),
        ([], None, "no model"),
        (["/m/a.gguf"], Path("/nowhere/at/all"), "--models-dir"),
    ],
)
def test_what_does_not_go_together_is_refused(
    wanted: list[str], directory: Path | None, complaint: str
) -> None:
    """Conflicting settings are refused before anything is loaded."""
    with pytest.raises(StartupError, match=complaint):
        list_models(wanted, directory)


def test_shortage_of_memory_is_told_with_its_parts() -> None:
    """A lack of memory is explained: weights, context, buffers, and what is free."""
    model = msgspec.structs.replace(
        DESCRIBED,
        size_bytes=100 * MEBIBYTE,
        context_length=64,
        position_bytes=MEBIBYTE,
        buffer_bytes=128 * MEBIBYTE,
    )
    needed = (100 + 64 + 128) * MEBIBYTE
    assert find_shortage(model, needed) == ""
    told = find_shortage(model, needed - 50 * MEBIBYTE)
    for part in ("100 MiB", "64 MiB for 64 positions", "292 MiB in all", "242 MiB are free"):
        assert part in told
