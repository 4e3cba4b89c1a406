"""The engine: one supervised child process per loaded model."""

from typing import Final

NAME: Final = "ctransformers"
"""The library that evaluates models; only `node.engine.ctransformers.library` imports it."""
