"""The names of models on the command line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.serving.downloads.source import HubFile, parse_source


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("hf:a/b/c.gguf", HubFile("a/b", "c.gguf")),
        ("hf:a-1/b.c_d/e/f g.gguf".replace(" ", "-"), HubFile("a-1/b.c_d", "e/f-g.gguf")),
        ("hf:a/b/c.gguf@v1", HubFile("a/b", "c.gguf", "v1")),
        ("hf:a/b/c.gguf@refs/pr/1", HubFile("a/b", "c.gguf", "refs/pr/1")),
    ],
)
def test_file_of_a_hub_is_read_and_written_alike(text: str, file: HubFile) -> None:
    """A name is written as it was read."""
    assert parse_source(text) == file
    assert str(file) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "hf:",
        "hf:a/b",
        "hf:a/c.gguf",
        "hf:a/b/c.bin",
        "hf:a/b/../../c.gguf",
        "hf:a/b//c.gguf",
        "hf:../b/c.gguf",
        "hf:a/b/c.gguf@",
        "hf:a/b/c.gguf@../x",
        "hf:a/b/c.gguf@x@y",
        "hf:a/b/c d.gguf",
        "hf:a/b/c.gguf\n",
    ],
)
def test_what_names_no_file_is_refused(text: str) -> None:
    """An incomplete name, or one that could leave the cache, is refused with the right form."""
    with pytest.raises(ValueError, match="hf:owner/repo"):
        parse_source(text)


@given(st.text(max_size=30).map("hf:".__add__))
def test_no_name_leads_out_of_the_cache(text: str) -> None:
    """An accepted name stays below the directory of the cache."""
    try:
        file = parse_source(text)
    except ValueError:
        return
    assert isinstance(file, HubFile)
    for part in (file.repository, file.path, file.revision):
        assert Path("/cache", part).resolve().is_relative_to("/cache")


def test_path_is_a_path() -> None:
    """Any other text is a path on this machine; the model is named after its file."""
    for source in (parse_source("/models/hf:x/tiny.gguf"), parse_source("hf:a/b/q8/tiny.gguf")):
        assert source.stem == "tiny"
    assert parse_source("models/a@b.gguf") == Path("models/a@b.gguf")
