"""Writes a GGUF file of random weights, with the size and the work of a real model."""

import itertools
import os
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np

from tests.bench.processes import REPOSITORY

_DIRECTORY: Final = REPOSITORY / ".local" / "bench"
_VOCABULARY: Final = 4096
_WIDTH: Final = 768
_HIDDEN_WIDTH: Final = 2048
_LAYERS: Final = 12
_HEADS: Final = 12
CONTEXT_TOKENS: Final = 2048

_SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's mark for a space
_CONTROL_TOKENS: Final = ("<unk>", "<s>", "</s>")
_UNKNOWN, _BEGIN, _END = range(len(_CONTROL_TOKENS))
_UNSPOKEN: Final = len(_CONTROL_TOKENS) + 256
"""The first tokens, control and bytes. Their logits are 0, so that the likeliest token is always
another one: a greedy answer never ends early, and each of its tokens is text."""

_BLOCK: Final = 32
"""Weights of one q8_0 block: a 16-bit scale, then 32 signed bytes (ggml's `block_q8_0`)."""
_WEIGHT_DEVIATION: Final = 0.03
_BYTE_DEVIATION: Final = 74.0
"""Standard deviation of bytes drawn evenly from -128..127: 256 / sqrt(12)."""
_SEED: Final = 1


def random_model() -> Path:
    """Return the path of the model, about 100 MB; the first call writes it."""
    path = _DIRECTORY / f"random-{_LAYERS}x{_WIDTH}.gguf"
    if not path.exists():
        _DIRECTORY.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        _write(unfinished)
        unfinished.replace(path)  # atomically
    return path


def _write(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    _add_shape(writer)
    _add_vocabulary(writer)
    for name, weights in _tensors(np.random.default_rng(_SEED)):
        kind = gguf.GGMLQuantizationType.Q8_0 if weights.dtype == np.uint8 else None
        writer.add_tensor(name, weights, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: gguf.GGUFWriter) -> None:
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(_WIDTH)
    writer.add_feed_forward_length(_HIDDEN_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    tokens = [*_CONTROL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), *_pieces()]
    kinds = [gguf.TokenType.CONTROL] * len(_CONTROL_TOKENS)
    kinds[_UNKNOWN] = gguf.TokenType.UNKNOWN
    kinds += [gguf.TokenType.BYTE] * 256
    kinds += [gguf.TokenType.NORMAL] * (len(tokens) - len(kinds))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(_BEGIN)
    writer.add_eos_token_id(_END)
    writer.add_unk_token_id(_UNKNOWN)


def _pieces() -> Iterator[str]:
    """Return the space and the letters, which every plain text needs, then made-up words."""
    letters = string.ascii_lowercase
    words = ("".join(word) for word in itertools.product(letters, repeat=3))
    pieces = itertools.chain(_SPACE, letters, (_SPACE + word for word in words))
    return itertools.islice(pieces, _VOCABULARY - _UNSPOKEN)


def _tensors(random: np.random.Generator) -> Iterator[tuple[str, Any]]:
    """Yield each tensor's name and values: q8_0 blocks as bytes, norms as 32-bit floats."""
    yield "token_embd.weight", _matrix(random, _VOCABULARY, _WIDTH)
    output = _matrix(random, _VOCABULARY, _WIDTH)
    output[:_UNSPOKEN] = 0
    yield "output.weight", output
    yield "output_norm.weight", np.ones(_WIDTH, np.float32)
    for layer in range(_LAYERS):
        prefix = f"blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"{prefix}.{name}.weight", _matrix(random, _WIDTH, _WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            yield f"{prefix}.{name}.weight", _matrix(random, _HIDDEN_WIDTH, _WIDTH)
        yield f"{prefix}.ffn_down.weight", _matrix(random, _WIDTH, _HIDDEN_WIDTH)
        for name in ("attn_norm", "ffn_norm"):
            yield f"{prefix}.{name}.weight", np.ones(_WIDTH, np.float32)


def _matrix(random: np.random.Generator, rows: int, columns: int) -> Any:
    """Draw a [rows, columns] matrix as the bytes of its q8_0 blocks."""
    scale = np.array([_WEIGHT_DEVIATION / _BYTE_DEVIATION], np.float16).view(np.uint8)
    blocks = columns // _BLOCK
    values = random.integers(0, 256, (rows, blocks, scale.size + _BLOCK), dtype=np.uint8)
    values[:, :, : scale.size] = scale
    return values.reshape(rows, -1)
