"""Estimates the memory of an engine besides the weights and the whole context.

The formula for llama.cpp was fitted to the buffers that it reports for models of seven shapes, see
docs/models.md.
"""

from collections.abc import Mapping
from typing import Final

from node.engine.facts import Facts
from node.engine.protocol import EngineName
from node.engine.shape import Buffers

BATCH_TOKENS: Final[Mapping[EngineName, int]] = {"ctransformers": 32, "llama.cpp": 128}
"""Prompt tokens per evaluation. Measured with llama.cpp on two cores: larger batches gain nothing
there, and the other slots wait for each batch."""
_CTRANSFORMERS_BYTES: Final = 128 * 2**20
"""Measured: 54 MB for the interpreter and its libraries. The rest is a guess that leaves room for
the buffers of a large model."""
_LLAMA_BYTES: Final = 64 * 2**20
"""Measured: 40 MB for the interpreter and its libraries."""
_TOKEN_BYTES: Final = 256
"""Of the vocabulary; measured: 144 for 262,144 tokens."""
_FLOAT_BYTES: Final = 4
_MASK_BYTES: Final = 2
_CHECKPOINTS: Final = 2
"""Copies of the window or the state that a slot keeps, so that a chat continues from them. The
engine's process keeps them, wherever the layers are."""
_PADDING: Final = 256
"""The positions of a cache are a multiple of this."""


def estimate_buffers(facts: Facts, engine: EngineName, context_length: int, slots: int) -> Buffers:
    """Return what an engine needs besides the weights and the whole context."""
    if engine == "ctransformers":
        return Buffers(_CTRANSFORMERS_BYTES)
    batch = max(BATCH_TOKENS[engine], context_length if facts.embeds else 0)
    window = _window(facts, context_length, batch)
    activations = 3 * facts.experts_used * facts.hidden_width + 5 * facts.width
    per_batch_token = _FLOAT_BYTES * activations + _MASK_BYTES * (context_length + window)
    recent = _recent_bytes(facts, window)
    per_slot = _FLOAT_BYTES * facts.tokens + _CHECKPOINTS * recent
    return Buffers(
        process_bytes=_LLAMA_BYTES + _TOKEN_BYTES * facts.tokens + slots * per_slot,
        compute_bytes=batch * per_batch_token,
        recent_bytes=slots * recent,
    )


def _window(facts: Facts, context_length: int, batch: int) -> int:
    """Return the positions that the layers with a window keep."""
    if not facts.cache.window:
        return 0
    padded = -(-(facts.cache.window + batch) // _PADDING) * _PADDING
    return min(context_length, padded)


def _recent_bytes(facts: Facts, window: int) -> int:
    return window * facts.cache.window_position_bytes + facts.cache.state_bytes
