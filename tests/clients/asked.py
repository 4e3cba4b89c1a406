"""What the clients ask: the node, its models, and questions that any model can answer.

Models with random weights know nothing, so the schemas allow only a few short answers.
"""

import os
from typing import Final, Literal

from pydantic import BaseModel, Field

NODE: Final = os.environ.get("NODE_URL", "")
API: Final = f"{NODE}/v1"
MODEL: Final = "tiny"
EMBEDDER: Final = "embedder"
REAL: Final = "gemma"
"""The only one that writes English; it has no chat template."""
QUESTION: Final = "How warm is it in Paris?"
ONLY_CLOSING: Final = {"125": 100}
"""A `logit_bias` that makes the random model close an object as soon as it may."""


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "Oslo"]
    degrees: int = Field(ge=0, le=30)
