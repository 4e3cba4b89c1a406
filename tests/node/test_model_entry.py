"""A model in the settings may say its engine, slots and context."""

from pathlib import Path

import click
import pytest

from node.engine.choice import Wanted
from node.serving.catalogue import list_models
from node.serving.entry import MODELS, Entry, read_entry
from shared.settings.declaration import as_text

DEFAULT = Wanted("llama.cpp", 4096, 2)


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("/m/a.gguf", Entry("", "/m/a.gguf", DEFAULT)),
        ("chat=/m/x=1.gguf", Entry("chat", "/m/x=1.gguf", DEFAULT)),
        ("/m/a.gguf,slots=8", Entry("", "/m/a.gguf", Wanted("llama.cpp", 4096, 8))),
        (
            "chat=hf:o/r/f.gguf@v1,engine=auto,context=8192,slots=0",
            Entry("chat", "hf:o/r/f.gguf@v1", Wanted("auto", 8192, 0)),
        ),
    ],
)
def test_entry_overrides_the_defaults(text: str, entry: Entry) -> None:
    """What a model does not say is as for all models."""
    assert read_entry(text, DEFAULT) == entry


@pytest.mark.parametrize("given", ["a.gguf,slots=2,engine=auto,b=c.gguf,context=9", None])
def test_option_belongs_to_the_model_before_it(given: str | None) -> None:
    """A flag, its own text again, and a TOML list are read alike."""
    items = ("a.gguf,slots=2,engine=auto", "b=c.gguf,context=9")
    assert MODELS.convert(given or list(items), None, None) == items
    assert MODELS.convert(as_text(items), None, None) == items


@pytest.mark.parametrize("named", ["b=./c", "b=c.GGUF", "engines=hf:o/r/f.gguf", "b-1=c"])
def test_named_model_is_no_option(named: str) -> None:
    """After a comma, a name before a path is the next model."""
    assert MODELS.convert(f"a.gguf,{named}", None, None) == ("a.gguf", named)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("slots=4", "is an option without a model before it"),
        ("a.gguf,engine=vllm", "has engine=vllm: it is one of auto, ctransformers, llama.cpp"),
        ("a.gguf,slots=-1", "has slots=-1: it is a whole number"),
        ("a.gguf,slots=", "has slots="),
        ("a.gguf,slots=²", "has slots=²"),
        ("a.gguf,slots=" + "9" * 5000, "has slots=999"),
        ("a.gguf,context=4k", "has context=4k: it is a whole number"),
        ("a.gguf,slots=1,slots=2", "has slots twice"),
        (
            "a.gguf,enginee=auto",
            "has enginee=, which is neither an option (engine, slots, context, key-file, ca-file)",
        ),
        ("a.gguf,Slots=2,b.gguf", "has Slots=, which is neither an option"),
        (["/m/a,b.gguf"], "contains a comma"),
        (["a.gguf,slots=2,b.gguf"], "contains a comma"),
    ],
)
def test_bad_option_is_refused(given: str | list[str], fault: str) -> None:
    """A bad option is refused with the model and the reason."""
    with pytest.raises(click.BadParameter) as refused:
        MODELS.convert(given, None, None)
    assert fault in refused.value.message


def test_models_of_the_directory_have_the_defaults(tmp_path: Path) -> None:
    """Each model of the settings has its own options, and the others those of all."""
    (tmp_path / "b.gguf").touch()
    models = list_models(["a.gguf,slots=1"], tmp_path, DEFAULT)
    assert [model.wanted for model in models] == [Wanted("llama.cpp", 4096, 1), DEFAULT]
