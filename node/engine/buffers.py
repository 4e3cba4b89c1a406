"""Estimates the memory of an engine besides the weights and the whole context."""

from typing import Final

from node.engine.facts import Facts
from node.engine.protocol import EngineName

_PROCESS_BYTES: Final = 128 * 2**20


def estimate_buffers(facts: Facts, engine: EngineName, context_length: int, slots: int) -> int:
    """Return the bytes that an engine needs besides the weights and the whole context."""
    if engine == "ctransformers":
        return _PROCESS_BYTES
    cache = facts.cache
    window = min(cache.window, context_length) * cache.window_position_bytes
    return _PROCESS_BYTES + slots * (window + cache.state_bytes)
