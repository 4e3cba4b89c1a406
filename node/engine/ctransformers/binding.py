"""Imports ctransformers without its downloads; the only module that imports it.

The package imports `huggingface_hub` for them, which takes longer than all else that an engine
imports. The node downloads by itself.
"""

import sys
from types import ModuleType
from typing import Final

_DOWNLOADS: Final = "ctransformers.hub"


def _leave_out_downloads() -> None:
    """Put an empty module in the place of the package's downloads, unless they are imported."""
    empty = ModuleType(_DOWNLOADS)
    empty.__dict__.update(AutoConfig=None, AutoModelForCausalLM=None, AutoTokenizer=None)
    sys.modules.setdefault(_DOWNLOADS, empty)


_leave_out_downloads()

from ctransformers import LLM, Config  # noqa: E402

__all__ = ["LLM", "Config"]
