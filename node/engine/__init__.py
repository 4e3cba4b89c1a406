"""The engines: one supervised process per loaded model, whichever engine runs it."""

from typing import Final

NAMES: Final = "ctransformers, llama.cpp"
"""The engines that a node has, for people."""
