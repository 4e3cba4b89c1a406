"""Measures the node in front of llama.cpp against the same llama-server alone.

Both run the same program with the same model, slots and threads, and answer in turn.
"""

import random
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import psutil

from node.machine import engine_threads, usable_cores
from tests.bench.askers import Answer, Ask, http_asker
from tests.bench.processes import Service, ended, run_exporter, run_node
from tests.bench.table import Row
from tests.grpc_client import connect, pb
from tests.llama_servers import COMPILED
from tests.processes import free_port, wait_for
from tests.real_model import real_model

_HOST: Final = "127.0.0.1"
_READY_SECONDS: Final = 120.0
_SLOTS: Final = 8
_CONTEXT_TOKENS: Final = 512
_TOKENS: Final = 60
_ROUNDS: Final = 12
_TOGETHER_ROUNDS: Final = 3
_LOADS: Final = 5


def measure() -> list[Row]:
    """Compare one stream, several at once, and the time to load the model."""
    if not COMPILED.exists():
        return [Row("llama-server", "not compiled: just llama-server", "", "")]
    model, threads = real_model(), engine_threads(usable_cores())
    with ExitStack() as running:
        directory = Path(running.enter_context(tempfile.TemporaryDirectory()))
        running.enter_context(run_exporter(directory))
        flags = [
            f"--llama-server={COMPILED}",
            f"--slots={_SLOTS}",
            f"--context-length={_CONTEXT_TOKENS}",
        ]
        node = running.enter_context(run_node(directory, model, threads, flags))
        alone = running.enter_context(_run_alone(model, threads))
        asks = [http_asker(server, _TOKENS) for server in (node, alone)]
        return [*_one_stream(asks), *_several(asks), *_loads(node, model, threads)]


@contextmanager
def _run_alone(model: Path, threads: int) -> Iterator[Service]:
    """Run a llama-server until the block ends; entered when it has loaded the model."""
    port = free_port()
    flags = {
        "model": model,
        "host": _HOST,
        "port": port,
        "parallel": _SLOTS,
        "ctx-size": _CONTEXT_TOKENS * _SLOTS,
        "threads": threads,
        "poll": 0,
        "cache-ram": 0,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen(
        [str(COMPILED), *words, "--no-webui"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with ended(process):
        wait_for(lambda: _is_ready(port), _READY_SECONDS)
        yield Service(psutil.Process(process.pid), _HOST, port)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{_HOST}:{port}/health", timeout=1):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _one_stream(asks: list[Ask]) -> Iterator[Row]:
    pairs = [_in_turn(asks, _prompt()) for _ in range(_ROUNDS)][1:]  # the first warms up
    ratios = [node.tokens_per_second / alone.tokens_per_second for node, alone in pairs]
    medians = [_rate(pairs, place) for place in (0, 1)]
    yield _row("one stream, tokens/s", medians, ratios, ">= 0.97")
    later = statistics.median(node.first_seconds - alone.first_seconds for node, alone in pairs)
    yield Row("  ... its first token", "", "", f"{later * 1e3:+.1f} ms", "<= +5 ms")


def _several(asks: list[Ask]) -> Iterator[Row]:
    sums: list[list[float]] = [[], []]
    with ThreadPoolExecutor(_SLOTS) as pool:
        for _ in range(_TOGETHER_ROUNDS):
            for place in random.sample((0, 1), 2):
                began = time.perf_counter()
                answers = list(pool.map(asks[place], [_prompt() for _ in range(_SLOTS)]))
                seconds = time.perf_counter() - began
                sums[place].append(sum(answer.tokens for answer in answers) / seconds)
    ratios = [node / alone for node, alone in zip(*sums, strict=True)]
    medians = [statistics.median(of) for of in sums]
    yield _row(f"{_SLOTS} streams, tokens/s in sum", medians, ratios, ">= 0.95")


def _loads(node: Service, model: Path, threads: int) -> Iterator[Row]:
    """Compare the time to load the model, each time in a new process."""
    ours, theirs = [], []
    with connect(f"http://{node.host}:{node.port}") as client:
        name = client.inference.ListModels(pb.ListModelsRequest()).models[0].id
        for _ in range(_LOADS):
            client.inference.UnloadModel(pb.UnloadModelRequest(model=name))
            began = time.perf_counter()
            client.inference.LoadModel(pb.LoadModelRequest(model=name), timeout=_READY_SECONDS)
            ours.append(time.perf_counter() - began)
            began = time.perf_counter()
            with _run_alone(model, threads):
                theirs.append(time.perf_counter() - began)
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    medians = [statistics.median(of) for of in (ours, theirs)]
    yield _row("seconds until the model is ready", medians, ratios, "<= 1.2")


def _in_turn(asks: list[Ask], prompt: str) -> tuple[Answer, Answer]:
    answers = {place: asks[place](prompt) for place in random.sample((0, 1), 2)}
    return answers[0], answers[1]


def _rate(pairs: list[tuple[Answer, Answer]], place: int) -> float:
    return statistics.median(pair[place].tokens_per_second for pair in pairs)


def _row(what: str, medians: list[float], ratios: list[float], aim: str) -> Row:
    spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"
    return Row(what, f"{medians[0]:.2f}", f"{medians[1]:.2f}", spread, aim)


def _prompt() -> str:
    """Return a prompt that nothing is cached of."""
    return f"Chapter {random.randrange(10**6)}. Once upon a time"
