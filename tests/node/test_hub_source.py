"""How models are named on the command line."""

from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.models.source import SOURCES, HubFile, model_id, parse_source


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
    """What is read is written as it was."""
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
    """A name that could lead out of the cache, or is incomplete, is refused with the form."""
    with pytest.raises(ValueError, match="hf:owner/repo"):
        parse_source(text)


@given(st.text(max_size=30).map("hf:".__add__))
def test_no_name_leads_out_of_the_cache(text: str) -> None:
    """Whatever is accepted stays below the directory that it is put in."""
    try:
        file = parse_source(text)
    except ValueError:
        return
    assert isinstance(file, HubFile)
    for part in (file.repository, file.path, file.revision):
        assert Path("/cache", part).resolve().is_relative_to("/cache")


def test_several_models_are_given_with_commas() -> None:
    """Paths and files of a hub can be mixed."""
    read = SOURCES.convert("/models/a.gguf,hf:a/b/c.gguf", None, None)
    assert read == (Path("/models/a.gguf"), HubFile("a/b", "c.gguf"))
    assert SOURCES.convert(",".join(map(str, read)), None, None) == read
    with pytest.raises(click.BadParameter, match="hf:owner/repo"):
        SOURCES.convert("a.gguf,hf:b", None, None)


def test_model_is_named_after_its_file() -> None:
    """The name is plain, for it is a label, and the same wherever the file is."""
    assert model_id(Path("/models/Tiny Llama.Q8_0.gguf")) == "Tiny-Llama.Q8_0"
    assert model_id(HubFile("a/b", "q8/tiny.gguf")) == "tiny"
    assert model_id(Path("/")) == "model"
