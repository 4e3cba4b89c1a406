"""Measures how much of its fair share decoding keeps beside other work on every core.

A fair scheduler divides the cores evenly among the engine's threads and as many busy loops as there
are cores. Threads that spin while they wait for each other get much less done than their share.
"""

import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from node.machine import engine_threads, usable_cores
from tests.bench.askers import Ask, http_asker
from tests.bench.processes import ended, run_exporter, run_node
from tests.bench.random_model import CONTEXT_TOKENS, random_model
from tests.bench.table import Row

_ENGINES: Final = ("ctransformers", "llama.cpp")
_ROUNDS: Final = 5
_SECONDS: Final = 60.0
"""After this much time no further round begins: spinning threads may take minutes for one."""
_TOKENS: Final = 40


def measure() -> list[Row]:
    """Compare both engines with the default number of threads, and with one on each core."""
    cores = len(os.sched_getaffinity(0))
    default = engine_threads(usable_cores())
    return [
        _measure(engine, threads, cores, is_default=threads == default)
        for engine in _ENGINES
        for threads in sorted({default, cores})
    ]


def _measure(engine: str, threads: int, cores: int, *, is_default: bool) -> Row:
    flags = [f"--engine={engine}", "--slots=1", f"--context-length={CONTEXT_TOKENS}"]
    alone: list[float] = []
    beside: list[float] = []
    with ExitStack() as running:
        directory = Path(running.enter_context(tempfile.TemporaryDirectory()))
        running.enter_context(run_exporter(directory))
        node = running.enter_context(run_node(directory, random_model(), threads, flags))
        ask = http_asker(node, _TOKENS)
        _rate(ask)  # warm up
        end = time.monotonic() + _SECONDS
        while len(alone) < _ROUNDS and (not alone or time.monotonic() < end):
            alone.append(_rate(ask))
            with _busy_loops(cores):
                beside.append(_rate(ask))
    share = cores / (cores + threads)
    ratios = [busy / (share * quiet) for busy, quiet in zip(beside, alone, strict=True)]
    return Row(
        f"{engine}, {threads} thread{'s' * (threads > 1)}{' (the default)' * is_default}",
        f"{statistics.median(beside):.1f} tokens/s",
        f"{share:.2f} of {statistics.median(alone):.1f} tokens/s",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        ">= 0.5" if is_default else "",
    )


def _rate(ask: Ask) -> float:
    return ask(f"{random.randrange(10**6)} once").tokens_per_second


@contextmanager
def _busy_loops(count: int) -> Iterator[None]:
    """Run as many busy loops until the block ends."""
    with ExitStack() as loops:
        for _ in range(count):
            loop = subprocess.Popen(["yes"], stdout=subprocess.DEVNULL)
            loops.enter_context(ended(loop))
        yield
