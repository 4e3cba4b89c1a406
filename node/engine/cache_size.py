"""How much of the text so far a model's layers keep: keys and values of 16-bit floats.

Follows llama.cpp's `llama_kv_cache`, `llama_kv_cache_iswa` and `llama_memory_recurrent`.
"""

from collections.abc import Sequence
from typing import Final

from node.engine.facts import Cache
from node.engine.gguf_head import Head

WIDTH_AT_MOST: Final = 2**20
"""Numbers per position and layer; the widest known model has 2**15."""
_KEPT: Final = ("key", "value")
_NUMBER_BYTES: Final = 2
_STATE_NUMBER_BYTES: Final = 4
_PATTERNS: Final = {
    "cohere2": 4,
    "exaone4": 4,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "olmo2": 4,
}
"""In how many layers one sees the whole context and the others a window of it, where llama.cpp
knows that and the file does not say so. For an architecture that is missing here, the whole context
is counted in all layers: too much, never too little."""


def measure_cache(head: Head, layers: int) -> Cache:
    """Return what each sequence of text needs.

    Raises:
        DamagedFileError: A number in the header is impossible.
    """
    architecture = head.text("general.architecture")
    window = head.number(f"{architecture}.attention.sliding_window")
    local = _local_layers(head, architecture, layers) if window else [False] * layers
    whole, windowed = _position_bytes(head, architecture, local)
    return Cache(
        position_bytes=whole,
        window=window if windowed else 0,
        window_position_bytes=windowed,
        state_bytes=_state_bytes(head, architecture, layers),
    )


def _local_layers(head: Head, architecture: str, layers: int) -> list[bool]:
    """Return for each layer whether it sees only a window of the context."""
    key = f"{architecture}.attention.sliding_window_pattern"
    listed = head.fields.get(key)
    if listed is not None and not isinstance(listed, int):
        return [bool(local) for local in head.per_layer(key, layers, 0, 1)]
    pattern = head.number(key, _PATTERNS.get(architecture, 1))
    return [pattern == 0 or layer % pattern < pattern - 1 for layer in range(layers)]


def _position_bytes(head: Head, architecture: str, local: Sequence[bool]) -> tuple[int, int]:
    """Return the bytes of one position in all layers that see everything, and in all others."""
    if "bert" in architecture:  # an encoder evaluates the whole text at once and keeps nothing
        return 0, 0
    key, layers = f"{architecture}.attention", len(local)
    heads = head.per_layer(f"{key}.head_count", layers, 1, WIDTH_AT_MOST)
    kept = head.per_layer(f"{key}.head_count_kv", layers, None, WIDTH_AT_MOST) or heads
    kept = kept[: layers - head.number(f"{key}.shared_kv_layers", 0, layers)]
    width = head.number(f"{architecture}.embedding_length", 0, WIDTH_AT_MOST)
    usual = width // min(filter(None, heads), default=1)
    lengths = [head.number(f"{key}.{name}_length", usual, WIDTH_AT_MOST) for name in _KEPT]
    in_window = [
        head.number(f"{key}.{name}_length_swa", length, WIDTH_AT_MOST)
        for name, length in zip(_KEPT, lengths, strict=True)
    ]
    whole = sum(count for count, is_local in zip(kept, local, strict=False) if not is_local)
    rest = sum(kept) - whole
    return _NUMBER_BYTES * sum(lengths) * whole, _NUMBER_BYTES * sum(in_window) * rest


def _state_bytes(head: Head, architecture: str, layers: int) -> int:
    """Return the bytes of the state that recurrent layers keep, as if all layers were."""
    key = f"{architecture}.ssm"
    inner = head.number(f"{key}.inner_size", 0, WIDTH_AT_MOST)
    state = head.number(f"{key}.state_size", 0, WIDTH_AT_MOST)
    groups = head.number(f"{key}.group_count", 0, WIDTH_AT_MOST)
    kernel = head.number(f"{key}.conv_kernel", 1, WIDTH_AT_MOST)
    numbers = max(0, kernel - 1) * (inner + 2 * groups * state) + state * inner
    return _STATE_NUMBER_BYTES * numbers * layers
