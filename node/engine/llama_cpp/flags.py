"""The flags that an operator may add to llama-server's command line."""

import shlex
from collections.abc import Mapping
from typing import Final

_SET_BY_NODE: Final[Mapping[str, str]] = {
    **dict.fromkeys(("--host", "--port", "--reuse-port", "--api-prefix"), "--runtime-dir"),
    **dict.fromkeys(("--model", "-m", "--hf-repo", "-hf", "--models-dir"), "--model"),
    **dict.fromkeys(("--ctx-size", "-c"), "--context-length"),
    **dict.fromkeys(("--parallel", "-np"), "--slots"),
    **dict.fromkeys(("--n-gpu-layers", "--gpu-layers", "-ngl"), "--gpu-layers"),
    **dict.fromkeys(("--threads", "-t", "--threads-batch", "-tb"), "--threads"),
    **dict.fromkeys(("--api-key", "--api-key-file"), "--api-key-file"),
}
"""Flags that contradict the node, and the setting to use instead."""


def split_flags(text: str) -> tuple[str, ...]:
    """Return the words of a command line, as a shell splits it.

    Raises:
        ValueError: A quotation is not closed, or the node itself sets a flag; one line.
    """
    words = tuple(shlex.split(text))
    for word in words:
        if instead := _SET_BY_NODE.get(word.partition("=")[0]):
            raise ValueError(f"{word} is set by the node: use {instead}")
    return words
