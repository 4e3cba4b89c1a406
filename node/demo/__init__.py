"""The demo model, MIT licensed: a storyteller small enough for the repository.

`deployments/demo_model` describes its abilities and its training.
"""

from pathlib import Path

MODEL_PATH = Path(__file__).with_name("demo.gguf")
