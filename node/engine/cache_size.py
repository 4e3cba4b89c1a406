"""How much of the text so far a model's layers keep: keys and values of 16-bit floats.

Follows llama.cpp's `llama_kv_cache`, `llama_kv_cache_iswa` and `llama_memory_recurrent`.
"""

from typing import Final

from node.engine.facts import Cache
from node.engine.gguf_file import Head

WIDTH_AT_MOST: Final = 2**20
"""Numbers per position and layer; the widest known model has 2**15."""
_NUMBER_BYTES: Final = 2
_STATE_NUMBER_BYTES: Final = 4
_PATTERNS: Final = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2, "cohere2": 4, "exaone4": 4}
"""In how many layers one sees the whole context and the others a window of it, where llama.cpp
knows that and the file does not say so. For an architecture that is missing here, the whole context
is counted in all layers: too much, never too little."""


def measure_cache(head: Head, layers: int) -> Cache:
    """Return what each sequence of text needs.

    Raises:
        DamagedFileError: A number in the header is impossible.
    """
    architecture = head.text("general.architecture")
    sizes = _position_bytes(head, architecture, layers)
    window = head.number(f"{architecture}.attention.sliding_window")
    local = _local_layers(head, architecture, layers) if window else [False] * layers
    everywhere = sum(size for size, is_local in zip(sizes, local, strict=True) if not is_local)
    return Cache(
        position_bytes=everywhere,
        window=window if any(local) else 0,
        window_position_bytes=sum(sizes) - everywhere,
        state_bytes=_state_bytes(head, architecture, layers),
    )


def _position_bytes(head: Head, architecture: str, layers: int) -> list[int]:
    """Return the bytes of one position in each layer."""
    if "bert" in architecture:  # an encoder evaluates the whole text at once and keeps nothing
        return [0] * layers
    key = f"{architecture}.attention"
    heads = head.per_layer(f"{key}.head_count", layers, 1, WIDTH_AT_MOST)
    shared = head.per_layer(f"{key}.head_count_kv", layers, None, WIDTH_AT_MOST) or heads
    width = head.number(f"{architecture}.embedding_length", 0, WIDTH_AT_MOST)
    usual = width // max(heads[0], 1) if heads else 0
    both = head.number(f"{key}.key_length", usual, WIDTH_AT_MOST)
    both += head.number(f"{key}.value_length", usual, WIDTH_AT_MOST)
    borrowed = head.number(f"{key}.shared_kv_layers", 0, layers)
    sizes = [_NUMBER_BYTES * both * min(count, WIDTH_AT_MOST) for count in shared]
    return sizes[: layers - borrowed] + [0] * borrowed


def _local_layers(head: Head, architecture: str, layers: int) -> list[bool]:
    """Return for each layer whether it sees only a window of the context."""
    key = f"{architecture}.attention.sliding_window_pattern"
    listed = head.fields.get(key)
    if listed is not None and not isinstance(listed, int):
        return [bool(local) for local in head.per_layer(key, layers, 0, 1) or ()]
    pattern = head.number(key, _PATTERNS.get(architecture, 1))
    return [pattern == 0 or layer % pattern < pattern - 1 for layer in range(layers)]


def _state_bytes(head: Head, architecture: str, layers: int) -> int:
    """Return the bytes of the state that recurrent layers keep, as if all layers were."""
    key = f"{architecture}.ssm"
    inner = head.number(f"{key}.inner_size", 0, WIDTH_AT_MOST)
    state = head.number(f"{key}.state_size", 0, WIDTH_AT_MOST)
    groups = head.number(f"{key}.group_count", 0, WIDTH_AT_MOST)
    kernel = head.number(f"{key}.conv_kernel", 1, WIDTH_AT_MOST)
    numbers = max(0, kernel - 1) * (inner + 2 * groups * state) + state * inner
    return _STATE_NUMBER_BYTES * numbers * layers
