"""The random weights of the models: the tensors of each architecture, by llama.cpp's names."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

CONTEXT_TOKENS: Final = 1024
"""As each model claims to be trained."""
LAYERS: Final = 6
"""Every sixth layer of gemma3 sees the whole context, the others a window of it."""
WIDTH: Final = 64
HEADS: Final = 4
HEADS_KV: Final = 2
HEAD_WIDTH: Final = 32
"""Not `WIDTH / HEADS`, where the architecture allows it."""
WINDOW: Final = 128
"""Positions that the local layers of gemma3 see."""
HIDDEN_WIDTH: Final = 96
EXPERTS: Final = 4
_WEIGHT_DEVIATION: Final = 0.05

Tensors = Iterator[tuple[str, Any]]


def decoder_ends(random: np.random.Generator, spoken: list[bool]) -> Tensors:
    yield "token_embd.weight", _matrix(random, len(spoken), WIDTH)
    yield (
        "output.weight",
        _matrix(random, len(spoken), WIDTH) * np.array(spoken, np.float32)[:, None],
    )
    yield "output_norm.weight", np.ones(WIDTH, np.float32)


def encoder_ends(random: np.random.Generator, spoken: list[bool]) -> Tensors:
    yield "token_embd.weight", _matrix(random, len(spoken), WIDTH)
    yield "token_types.weight", _matrix(random, 2, WIDTH)
    yield "position_embd.weight", _matrix(random, CONTEXT_TOKENS, WIDTH)
    yield from _norm_and_bias("token_embd_norm")


def ranker_ends(random: np.random.Generator, spoken: list[bool]) -> Tensors:
    yield from encoder_ends(random, spoken)
    yield from _matrix_and_bias(random, "cls", WIDTH, WIDTH)
    yield from _matrix_and_bias(random, "cls.output", 1, WIDTH)


def _attention(random: np.random.Generator, head_width: int, *, bias: bool = False) -> Tensors:
    rows = {
        "attn_q": HEADS * head_width,
        "attn_k": HEADS_KV * head_width,
        "attn_v": HEADS_KV * head_width,
    }
    for name, count in rows.items():
        yield f"{name}.weight", _matrix(random, count, WIDTH)
        if bias:
            yield f"{name}.bias", np.zeros(count, np.float32)
    yield "attn_output.weight", _matrix(random, WIDTH, HEADS * head_width)
    yield "attn_norm.weight", np.ones(WIDTH, np.float32)
    yield "ffn_norm.weight", np.ones(WIDTH, np.float32)


def _feed_forward(random: np.random.Generator) -> Tensors:
    yield "ffn_gate.weight", _matrix(random, HIDDEN_WIDTH, WIDTH)
    yield "ffn_up.weight", _matrix(random, HIDDEN_WIDTH, WIDTH)
    yield "ffn_down.weight", _matrix(random, WIDTH, HIDDEN_WIDTH)


def _head_norms() -> Tensors:
    yield "attn_q_norm.weight", np.ones(HEAD_WIDTH, np.float32)
    yield "attn_k_norm.weight", np.ones(HEAD_WIDTH, np.float32)


def llama_layer(random: np.random.Generator) -> Tensors:
    yield from _attention(random, WIDTH // HEADS)
    yield from _feed_forward(random)


def qwen2_layer(random: np.random.Generator) -> Tensors:
    yield from _attention(random, WIDTH // HEADS, bias=True)
    yield from _feed_forward(random)


def qwen3_layer(random: np.random.Generator) -> Tensors:
    yield from _attention(random, HEAD_WIDTH)
    yield from _head_norms()
    yield from _feed_forward(random)


def gemma3_layer(random: np.random.Generator) -> Tensors:
    yield from qwen3_layer(random)
    yield "post_attention_norm.weight", np.ones(WIDTH, np.float32)
    yield "post_ffw_norm.weight", np.ones(WIDTH, np.float32)


def phi3_layer(random: np.random.Generator) -> Tensors:
    yield "attn_qkv.weight", _matrix(random, WIDTH + 2 * HEADS_KV * WIDTH // HEADS, WIDTH)
    yield "attn_output.weight", _matrix(random, WIDTH, WIDTH)
    yield "attn_norm.weight", np.ones(WIDTH, np.float32)
    yield "ffn_norm.weight", np.ones(WIDTH, np.float32)
    yield "ffn_up.weight", _matrix(random, 2 * HIDDEN_WIDTH, WIDTH)
    yield "ffn_down.weight", _matrix(random, WIDTH, HIDDEN_WIDTH)


def expert_layer(random: np.random.Generator) -> Tensors:
    yield from _attention(random, HEAD_WIDTH)
    yield from _head_norms()
    yield "ffn_gate_inp.weight", _matrix(random, EXPERTS, WIDTH)
    for name, rows, columns in (
        ("ffn_gate_exps", HIDDEN_WIDTH, WIDTH),
        ("ffn_up_exps", HIDDEN_WIDTH, WIDTH),
        ("ffn_down_exps", WIDTH, HIDDEN_WIDTH),
    ):
        experts = [_matrix(random, rows, columns) for _ in range(EXPERTS)]
        yield f"{name}.weight", np.stack(experts)


def bert_layer(random: np.random.Generator) -> Tensors:
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        yield from _matrix_and_bias(random, name, WIDTH, WIDTH)
    yield from _matrix_and_bias(random, "ffn_up", HIDDEN_WIDTH, WIDTH)
    yield from _matrix_and_bias(random, "ffn_down", WIDTH, HIDDEN_WIDTH)
    yield from _norm_and_bias("attn_output_norm")
    yield from _norm_and_bias("layer_output_norm")


def _norm_and_bias(name: str) -> Tensors:
    yield f"{name}.weight", np.ones(WIDTH, np.float32)
    yield f"{name}.bias", np.zeros(WIDTH, np.float32)


def _matrix_and_bias(random: np.random.Generator, name: str, rows: int, columns: int) -> Tensors:
    yield f"{name}.weight", _matrix(random, rows, columns)
    yield f"{name}.bias", np.zeros(rows, np.float32)


def _matrix(random: np.random.Generator, rows: int, columns: int) -> Any:
    return random.normal(0, _WEIGHT_DEVIATION, (rows, columns)).astype(np.float32)
