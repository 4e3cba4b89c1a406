"""Measures the speed of one stream over HTTP and over gRPC, against the bare engine and a peer.

All answer prompts of one kind in turn, with the same number of threads and in separate processes.
An exporter receives the node's events, as in production.
"""

import itertools
import os
import random
import statistics
import string
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.demo import MODEL_PATH
from node.machine import engine_threads, usable_cores
from tests.bench.askers import Answer, Ask, bare_asker, grpc_asker, http_asker
from tests.bench.peer import is_installed, run_peer
from tests.bench.processes import run_exporter, run_module, run_node
from tests.bench.random_model import CONTEXT_TOKENS, random_model
from tests.bench.table import Row
from tests.grpc_client import connect

_ROUNDS: Final = 20
"""Many short answers, because the engine's speed on a shared machine drifts by 10% in seconds."""
_ASKING_SECONDS: Final = 60.0
_PROMPT_CHARACTERS: Final = 32
"""Each is one token of the random model's vocabulary."""
_HEROES: Final = ("fox", "cat", "bear", "girl", "boy", "bird", "dog", "mouse", "frog", "rabbit")


@dataclass(frozen=True)
class Case:
    """A model and its prompts."""

    name: str
    model: Path
    context_tokens: int
    answer_tokens: int
    prompts: Callable[[], str]
    """Returns a new prompt each time, so that nothing of it is cached."""
    aim: str


def measure() -> list[Row]:
    """Compare for each relevant number of threads, then for the fastest tokens."""
    default = engine_threads(usable_cores())
    rows: list[Row] = []
    for threads in sorted({1, default, len(os.sched_getaffinity(0))}):
        name = f"100 MB, {threads} thread{'s' if threads > 1 else ''}"
        if threads == default:
            name += " (the default)"
        rows += _measure(_random_case(name), threads)
    return [*rows, *_measure(_demo_case(), default)]


def _random_case(name: str) -> Case:
    def prompt() -> str:
        return "".join(random.choices(string.ascii_lowercase, k=_PROMPT_CHARACTERS))

    return Case(name, random_model(), CONTEXT_TOKENS, 100, prompt, ">= 0.97")


def _demo_case() -> Case:
    heroes = itertools.cycle(_HEROES)
    return Case(
        "demo model",
        MODEL_PATH,
        512,
        200,
        lambda: f"Once upon a time there was a {next(heroes)}",
        ">= 0.5",
    )


def _measure(case: Case, threads: int) -> Iterator[Row]:
    tokens = case.answer_tokens
    bare_command = ("tests.bench.bare_engine", str(case.model), str(case.context_tokens))
    with ExitStack() as running:
        directory = Path(running.enter_context(tempfile.TemporaryDirectory()))
        running.enter_context(run_exporter(directory))
        node = running.enter_context(run_node(directory, case.model, threads))
        bare = running.enter_context(run_module(*bare_command, str(threads)))
        client = running.enter_context(connect(f"http://{node.host}:{node.port}"))
        asks = {
            "bare": bare_asker(bare, tokens),
            "an HTTP stream": http_asker(node, tokens),
            "a gRPC stream": grpc_asker(node, client, tokens),
        }
        if is_installed():
            peer = running.enter_context(run_peer(case.model, case.context_tokens, threads))
            asks["llama-cpp-python's server"] = http_asker(peer, tokens)
        answers = _ask_in_turn(case, asks)
    alone = answers.pop("bare")
    for name, theirs in answers.items():
        yield from _compare(f"{case.name}: {name}", theirs, alone, case.aim)
    if not is_installed():
        yield Row("llama-cpp-python's server", "not installed: just peer", "", "")


def _ask_in_turn(case: Case, asks: dict[str, Ask]) -> dict[str, list[Answer]]:
    """Ask each in a changing order, so that none always follows the same one.

    On a machine that is too busy for all rounds it ends early, after two rounds at least.
    """
    answers: dict[str, list[Answer]] = {name: [] for name in asks}
    for ask in asks.values():
        ask(case.prompts())  # warm up
    end = time.monotonic() + _ASKING_SECONDS
    for number in range(_ROUNDS):
        if number >= 2 and time.monotonic() > end:
            break
        for name in random.sample(list(asks), len(asks)):
            # Each gets a prompt of its own: two protocols share one node, which would have cached
            # it.
            answers[name].append(asks[name](case.prompts()))
    return answers


def _compare(what: str, theirs: list[Answer], alone: list[Answer], aim: str) -> Iterator[Row]:
    is_peer = "llama" in what
    ratios = [
        one.tokens_per_second / bare.tokens_per_second
        for one, bare in zip(theirs, alone, strict=True)
    ]
    low, middle, high = statistics.quantiles(ratios, n=4)
    yield Row(
        f"{what} against the bare engine",
        f"{statistics.median(answer.tokens_per_second for answer in theirs):.1f} tokens/s",
        f"{statistics.median(answer.tokens_per_second for answer in alone):.1f} tokens/s",
        f"{middle:.3f} (quartiles {low:.3f}-{high:.3f})",
        "" if is_peer else aim,
    )
    later = statistics.median(
        one.first_seconds - bare.first_seconds for one, bare in zip(theirs, alone, strict=True)
    )
    yield Row(
        "  ... time to the first token",
        _milliseconds(statistics.median(answer.first_seconds for answer in theirs)),
        _milliseconds(statistics.median(answer.first_seconds for answer in alone)),
        f"{later * 1e3:+.1f} ms",
        "" if is_peer else "<= +10 ms",
    )
    # The mean: the kernel counts in hundredths of a second, too coarse for one answer.
    cpu_seconds = statistics.mean(answer.cpu_seconds / answer.tokens for answer in theirs)
    token_seconds = statistics.median(1 / answer.tokens_per_second for answer in alone)
    yield Row(
        "  ... CPU per token"
        + (", with its engine" if is_peer else " in the node, without engine"),
        _milliseconds(cpu_seconds),
        _milliseconds(token_seconds),
        f"{cpu_seconds / token_seconds:.3f}",
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"
