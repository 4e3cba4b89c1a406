"""Engines are killed in the middle of answers: the clients read the same text."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil

from tests.bench.random_model import random_model
from tests.chaos.rows import Row
from tests.processes import Pair, Running, Samples, scrape, stream, text_of, value, wait_for

_ANSWER_TOKENS: Final = 40


def engine_killed(directory: Path, kills: int = 100, engine: str = "ctransformers") -> list[Row]:
    """Ask everything twice, and kill the engine in the first half of each second answer.

    The engine has one slot. Later it might be complete before the signal comes.
    """
    flags = (f"--model={random_model()}", f"--engine={engine}", "--slots=1")
    draw = random.Random(kills)
    same = 0
    with (
        Pair(directory).exporter() as exporter,
        Pair(directory).node(*flags) as node,
    ):
        for number in range(kills):
            asked = _question(number)
            whole = text_of(list(stream(node.url, **asked)))
            killed = _answer_killed_at(node, draw.randrange(_ANSWER_TOKENS // 2), asked)
            same += text_of(list(killed)) == whole
        asked_for = 2 * kills
        samples = wait_for(lambda: _ended(exporter, asked_for), 30)
    resumed = value(samples, "inference_resumed_total", reason="crashed") or 0
    restarts = value(samples, "engine_restarts_total") or 0
    tokens = value(samples, "inference_tokens_generated_total") or 0
    return [
        Row("the text of an answer is the same", f"{same} of {kills} killed", same == kills),
        Row(
            "each request continued, and is counted",
            f"{restarts:.0f} engines ended, {resumed:.0f} requests continued",
            resumed == restarts == kills,
        ),
        Row(
            "no client sees an error",
            f"{value(samples, 'inference_requests_total', status='ok'):.0f} of {asked_for} ok",
            value(samples, "inference_requests_total", status="ok") == asked_for,
        ),
        Row(
            "no token is counted twice",
            f"{tokens:.0f} for {asked_for} answers of {_ANSWER_TOKENS}",
            tokens == asked_for * _ANSWER_TOKENS,
        ),
    ]


def llama_server_killed(directory: Path, kills: int = 100) -> list[Row]:
    """Do the same with llama.cpp."""
    return engine_killed(directory, kills, "llama.cpp")


def _question(number: int) -> dict[str, Any]:
    """Return a question of its own for each number; every other one is sampled with a seed."""
    sampled = {"temperature": 0.9, "seed": number} if number % 2 else {"temperature": 0}
    return {"prompt": f"number {number} once", "max_tokens": _ANSWER_TOKENS} | sampled


def _answer_killed_at(node: Running, token: int, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the chunks of an answer, and kill its engine once after the given number of chunks."""
    (child,) = psutil.Process(node.process.pid).children()  # a look takes as long as some tokens
    for number, chunk in enumerate(stream(node.url, **asked)):
        if number == token:
            os.kill(child.pid, signal.SIGKILL)
        yield chunk


def _ended(exporter: Running, requests: int) -> Samples | None:
    samples = scrape(exporter.url)
    return samples if value(samples, "inference_requests_total") == requests else None
