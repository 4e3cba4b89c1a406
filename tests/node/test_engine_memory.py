"""What a model's context takes is read from its header, and agrees with llama.cpp."""

import array
from typing import Any, Final

import pytest

from node.engine.buffers import estimate_buffers
from node.engine.cache_size import measure_cache
from node.engine.facts import Cache
from node.engine.gguf_head import DamagedFileError, Head
from node.engine.reading import read_facts
from tests.random_models import random_model

MEBIBYTE: Final = 2**20
GEMMA: Final = {
    "embedding_length": 640,
    "attention.head_count": 4,
    "attention.head_count_kv": 1,
    "attention.key_length": 256,
    "attention.value_length": 256,
    "attention.sliding_window": 512,
}
"""Of gemma-3-270m, with 18 layers."""


def cache(architecture: str, layers: int, **fields: Any) -> Cache:
    """Return what a model with these fields keeps; `__` stands for a dot."""
    named = {f"{architecture}.{key.replace('__', '.')}": value for key, value in fields.items()}
    head = Head({"general.architecture": architecture.encode(), **named}, (), 0)
    return measure_cache(head, layers)


def test_layers_with_a_window_are_counted_apart() -> None:
    """llama.cpp reports 24 MiB for 3 layers of 4 x 2048 positions, 60 MiB for 15 of 4 x 1024."""
    found = cache("gemma3", 18, **GEMMA)
    assert found.position_bytes * 4 * 2048 == 24 * MEBIBYTE
    assert found.window_position_bytes * 4 * 1024 == 60 * MEBIBYTE
    assert found.window == 512


def test_unknown_pattern_counts_the_whole_context() -> None:
    """If the file does not say which layers see a window, all count as whole."""
    found = cache("novel", 18, **GEMMA)
    assert (found.window, found.window_position_bytes) == (0, 0)
    assert found.position_bytes == 18 * 1024


@pytest.mark.parametrize(
    "pattern", [2, array.array("b", [1, 0, 1, 0]), array.array("i", [1, 0] * 9)]
)
def test_pattern_in_the_file_is_taken(pattern: Any) -> None:
    """Files of newer architectures name the layers with a window."""
    found = cache("novel", 4, **GEMMA, attention__sliding_window_pattern=pattern)
    assert found.position_bytes == found.window_position_bytes == 2 * 1024


def test_layers_with_a_window_may_be_narrower() -> None:
    """gemma4 has shorter keys and values there."""
    narrow = {"attention.key_length_swa": 64, "attention.value_length_swa": 32}
    found = cache("gemma3", 6, **GEMMA, **narrow)
    assert (found.position_bytes, found.window_position_bytes) == (2 * 512, 5 * 2 * 96)


def test_heads_may_differ_between_layers() -> None:
    """A list has one number for each layer; a layer without keys, as in hybrids, keeps none."""
    heads = array.array("i", [2, 0, 4])
    found = cache(
        "novel", 3, embedding_length=64, attention__head_count=4, attention__head_count_kv=heads
    )
    assert found.position_bytes == 2 * 6 * (16 + 16)


def test_layers_that_share_keep_nothing() -> None:
    """The last layers of some models use the keys and values of earlier ones."""
    shape = {"embedding_length": 64, "attention.head_count": 4}
    assert cache("novel", 6, **shape, attention__shared_kv_layers=2) == cache("novel", 4, **shape)


def test_recurrent_layers_keep_a_state() -> None:
    """A recurrent model has a state for each sequence, whatever its length."""
    found = cache("mamba", 2, ssm__inner_size=64, ssm__state_size=16, ssm__conv_kernel=4)
    assert found.position_bytes == 0
    assert found.state_bytes == 2 * 4 * (3 * 64 + 64 * 16)


def test_encoder_keeps_nothing() -> None:
    """An encoder sees the whole text at once."""
    assert (
        cache("nomic-bert", 12, embedding_length=768, attention__head_count=12).position_bytes == 0
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"attention.head_count_kv": array.array("i", [1, 2])},
        {"attention.head_count_kv": array.array("i", [1, 2, -1])},
        {"attention.head_count_kv": [b"1", b"2", b"3"]},
        {"attention.key_length": 2**31 - 1},
        {"attention.head_count": 2**40},
        {"attention.shared_kv_layers": 4},
        {"attention.sliding_window_pattern": -1, "attention.sliding_window": 8},
        {"ssm.inner_size": 2**30},
        {"embedding_length": 1.5},
    ],
)
def test_impossible_number_is_damage(fields: dict[str, Any]) -> None:
    """Each number that sizes memory must be possible."""
    with pytest.raises(DamagedFileError):
        cache("novel", 3, **{"attention.head_count": 2, "embedding_length": 8} | fields)


@pytest.mark.parametrize(
    ("name", "measured"),
    [("llama3", 33.9), ("gemma3", 34.5), ("qwen3moe", 34.0)],
)
def test_estimate_covers_what_was_measured(name: str, measured: float) -> None:
    """The estimate is above what llama-server took besides weights and context, in MiB."""
    facts = read_facts(random_model(name))
    estimated = estimate_buffers(facts, "llama.cpp", 1024, 4).total_bytes / MEBIBYTE
    assert measured < estimated < 2.5 * measured


def test_batch_of_an_embedding_model_is_a_whole_text() -> None:
    """A model that embeds evaluates a text in one batch, which takes memory."""
    facts = read_facts(random_model("embedder"))
    short, long = (estimate_buffers(facts, "llama.cpp", length, 1) for length in (512, 1024))
    assert long.total_bytes > short.total_bytes
