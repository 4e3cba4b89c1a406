"""Workers of a split model are killed or frozen at random tokens: clients see only a pause."""

import itertools
import random
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.chaos.rows import Row, skipped
from tests.llama_servers import COMPILED
from tests.processes import stream, text_of
from tests.split_mesh import MODEL, ONE_SPARE, Loss, SplitMesh, ask, split_mesh

LOSSES: Final = 20
PAUSE_SECONDS: Final = 5.0
_PROMPT: Final = "Once upon a time"
_TOKENS: Final = 32
_SEED: Final = 16


class _Answered(NamedTuple):
    text: str
    has_error: bool
    pause_seconds: float
    """The longest time without a token after the loss."""


def worker_lost(directory: Path, losses: int = LOSSES) -> list[Row]:
    """Lose a worker in each of many answers; each must have the same text."""
    if not COMPILED.exists():
        return [skipped("no llama-server is compiled: run `just llama-server`")]
    draw = random.Random(_SEED)
    with split_mesh(directory, ONE_SPARE) as mesh:
        mesh.wait_up()
        expected = ask(mesh.url, _PROMPT, _TOKENS)["choices"][0]["text"]
        answers = []
        for _ in range(losses):
            mesh.wait_up()
            how: Loss = draw.choice(("killed", "frozen"))
            answers.append(_lose_one(mesh, how, draw.randrange(1, _TOKENS - 4)))
    same = sum(answer.text == expected for answer in answers)
    errors = sum(answer.has_error for answer in answers)
    pauses = sorted(answer.pause_seconds for answer in answers)
    late = pauses[max(0, round(0.95 * len(pauses)) - 1)]
    return [
        Row("no client sees an error", f"{errors} of {losses} answers", errors == 0),
        Row("the text is the same", f"{same} of {losses} answers", same == losses),
        Row(
            f"p95 from the loss to the next token <= {PAUSE_SECONDS:g} s on an idle machine",
            f"{late:.2f} s (median {pauses[len(pauses) // 2]:.2f}, most {pauses[-1]:.2f})",
            late <= PAUSE_SECONDS,
        ),
    ]


def _lose_one(mesh: SplitMesh, how: Loss, at: int) -> _Answered:
    """Lose the worker after `at` tokens of an answer."""
    asked = {"model": MODEL, "prompt": _PROMPT, "max_tokens": _TOKENS, "temperature": 0}
    chunks: list[dict[str, Any]] = []
    told: list[float] = []
    for chunk in stream(mesh.url, **asked):
        chunks.append(chunk)
        if told:  # what was drawn before the loss may still come
            told.append(time.monotonic())
        elif len(chunks) == at:
            told.append(time.monotonic())
            mesh.lose_worker(how)
    pause = max(later - earlier for earlier, later in itertools.pairwise(told))
    return _Answered(text_of(chunks), any("error" in chunk for chunk in chunks), pause)
