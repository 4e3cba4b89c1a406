"""The demo model, MIT licensed: a storyteller small enough to live in the repository.

`deployments/demo_model` says what it can do and how it was trained.
"""

from pathlib import Path

MODEL_PATH = Path(__file__).with_name("demo.gguf")
