"""Writes tiny GGUF models of current architectures with random weights, 1 to 3 MB each.

llama-server loads all of them. They answer with random text that is valid UTF-8 and never ends
early, because only tokens of printable ASCII can be the likeliest.
"""

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np

from tests.random_vocabularies import Tokens, byte_pairs, sentence_piece, word_pieces
from tests.random_weights import (
    CONTEXT_TOKENS,
    EXPERTS,
    HEAD_WIDTH,
    HEADS,
    HEADS_KV,
    HIDDEN_WIDTH,
    LAYERS,
    WIDTH,
    WINDOW,
    Tensors,
    bert_layer,
    decoder_ends,
    encoder_ends,
    expert_layer,
    gemma3_layer,
    llama_layer,
    phi3_layer,
    qwen2_layer,
    qwen3_layer,
    ranker_ends,
)

DEEP: Final = 60
_SEED: Final = 1
_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_DIRECTORY: Final = Path(__file__).parents[1] / ".local" / "random-models"


@dataclass(frozen=True)
class _Kind:
    """How a model of one architecture is written."""

    architecture: str
    tokens: Callable[[], Tokens]
    fields: Callable[[gguf.GGUFWriter], None]
    layer: Callable[[np.random.Generator], Tensors]
    """Yields the tensors of one layer, by their names inside it."""
    ends: Callable[[np.random.Generator, list[bool]], Tensors]
    """Yields the tensors outside the layers."""


def random_model(name: str, layers: int = LAYERS) -> Path:
    """Return the path of a model; the first call writes it.

    Args:
        name: One of `NAMES`.
        layers: How many it has. A token of `DEEP` of them takes milliseconds, so that an answer
            lasts for seconds: for tests that interrupt one.
    """
    sources = sorted(Path(__file__).parent.glob("random_*.py"))
    version = zlib.crc32(b"".join(source.read_bytes() for source in sources))
    path = _DIRECTORY / f"{version:08x}" / f"{name}-{layers}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        write_model(unfinished, name, layers=layers)
        unfinished.replace(path)  # atomically
    return path


def write_model(
    path: Path, name: str, *, split_tensors: int = 0, layers: int = LAYERS, **changes: Any
) -> Path:
    """Write a model to `path`.

    Args:
        path: The file.
        name: One of `NAMES`.
        split_tensors: Tensors of each part, to write several: `m.gguf` becomes
            `m-00001-of-00004.gguf` and its successors.
        layers: How many the model has.
        changes: Further fields: `split__count=2` writes `split.count`. A field that the model has
            is replaced.
    """
    kind = _KINDS[name]
    random = np.random.default_rng(_SEED)
    tokens = kind.tokens()
    writer = gguf.GGUFWriter(path, kind.architecture, split_max_tensors=split_tensors)
    _add_shape(writer, layers)
    kind.fields(writer)
    _add_tokens(writer, tokens)
    for field, value in changes.items():
        writer.kv_data[0].pop(key := field.replace("__", "."), None)
        _add_field(writer, key, value)
    for tensor, weights in _tensors(kind, random, tokens, layers):
        writer.add_tensor(tensor, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(kind: _Kind, random: np.random.Generator, tokens: Tokens, layers: int) -> Tensors:
    yield from kind.ends(random, tokens.spoken)
    for layer in range(layers):
        for name, weights in kind.layer(random):
            yield f"blk.{layer}.{name}", weights


def _add_field(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def _add_shape(writer: gguf.GGUFWriter, layers: int) -> None:
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN_WIDTH)
    writer.add_block_count(layers)
    writer.add_head_count(HEADS)


def _add_decoder(writer: gguf.GGUFWriter) -> None:
    writer.add_head_count_kv(HEADS_KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_chat_template(_TEMPLATE)


def _add_wide_heads(writer: gguf.GGUFWriter) -> None:
    _add_decoder(writer)
    writer.add_key_length(HEAD_WIDTH)
    writer.add_value_length(HEAD_WIDTH)


def _add_rotated(writer: gguf.GGUFWriter) -> None:
    _add_decoder(writer)
    writer.add_rope_dimension_count(WIDTH // HEADS)


def _add_window(writer: gguf.GGUFWriter) -> None:
    _add_wide_heads(writer)
    writer.add_sliding_window(WINDOW)


def _add_experts(writer: gguf.GGUFWriter) -> None:
    _add_wide_heads(writer)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(2)
    writer.add_expert_feed_forward_length(HIDDEN_WIDTH)


def _add_encoder(pooling: gguf.PoolingType, writer: gguf.GGUFWriter) -> None:
    writer.add_layer_norm_eps(1e-5)
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(pooling)


def _add_tokens(writer: gguf.GGUFWriter, tokens: Tokens) -> None:
    writer.add_token_list(tokens.texts)
    writer.add_token_types(tokens.kinds)
    tokens.write(writer)


_KINDS: Final = {
    "llama3": _Kind(
        "llama", partial(byte_pairs, "llama-bpe"), _add_rotated, llama_layer, decoder_ends
    ),
    "qwen2": _Kind("qwen2", partial(byte_pairs, "qwen2"), _add_decoder, qwen2_layer, decoder_ends),
    "qwen3": _Kind(
        "qwen3", partial(byte_pairs, "qwen2"), _add_wide_heads, qwen3_layer, decoder_ends
    ),
    "gemma3": _Kind("gemma3", sentence_piece, _add_window, gemma3_layer, decoder_ends),
    "phi3": _Kind("phi3", sentence_piece, _add_rotated, phi3_layer, decoder_ends),
    "qwen3moe": _Kind(
        "qwen3moe", partial(byte_pairs, "qwen2"), _add_experts, expert_layer, decoder_ends
    ),
    "embedder": _Kind(
        "bert", word_pieces, partial(_add_encoder, gguf.PoolingType.MEAN), bert_layer, encoder_ends
    ),
    "ranker": _Kind(
        "bert", word_pieces, partial(_add_encoder, gguf.PoolingType.RANK), bert_layer, ranker_ends
    ),
}
NAMES: Final = tuple(_KINDS)
