"""The demo model: a storyteller small enough to live in the repository."""

from pathlib import Path

MODEL_PATH = Path(__file__).with_name("demo.gguf")
