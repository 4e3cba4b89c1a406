"""The engines: one supervised process per loaded model, or a server that others run."""

from typing import Final

NAMES: Final = "ctransformers, llama.cpp"
"""The engines that a node has, for people."""
