"""How fast one stream over HTTP and one over gRPC is, against the engine alone.

Both sides answer the same prompts in turn, with as many threads and each in processes of its own;
an exporter takes the node's events as in use.
"""

import json
import os
import random
import select
import socket
import statistics
import string
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from node.machine import engine_threads, usable_cores
from tests.bench.processes import Service, run_exporter, run_module, run_node
from tests.bench.random_model import CONTEXT_TOKENS, random_model
from tests.bench.table import Row
from tests.grpc_client import Client, ask, connect

_ANSWER_TOKENS: Final = 100
_PROMPT_CHARACTERS: Final = 32
"""A token each with the random model's vocabulary."""
_PAIRS: Final = 20
"""Many short answers: on a shared machine the engine's speed drifts by a tenth in seconds."""
_ASKING_SECONDS: Final = 45.0
_ANSWER_SECONDS: Final = 60.0
_READ_BYTES: Final = 65536
_EVENT: Final = b"data: "
_DONE: Final = b"data: [DONE]\n\n"


class Answer(NamedTuple):
    """One answer as its reader saw it."""

    tokens: int
    first_seconds: float
    seconds: float
    cpu_seconds: float = 0.0
    """Work of the node's own process meanwhile, its engine child's not included."""

    @property
    def tokens_per_second(self) -> float:
        """Speed after the first token."""
        return (self.tokens - 1) / (self.seconds - self.first_seconds)


Ask = Callable[[str], Answer]


def measure() -> list[Row]:
    """Compare with one thread, with the node's default and with a thread a core."""
    default = engine_threads(usable_cores())
    rows: list[Row] = []
    for threads in sorted({1, default, len(os.sched_getaffinity(0))}):
        name = f"{threads} threads" if threads > 1 else "1 thread"
        rows += _measure(f"{name} (the default)" if threads == default else name, threads)
    return rows


def _measure(what: str, threads: int) -> Iterator[Row]:
    model = random_model()
    bare_command = ("tests.bench.bare_engine", str(model), str(CONTEXT_TOKENS), str(threads))
    with (
        tempfile.TemporaryDirectory() as name,
        run_exporter(Path(name)),
        run_node(Path(name), model, threads) as node,
        run_module(*bare_command) as bare,
        connect(f"http://{node.host}:{node.port}") as client,
    ):
        ask_bare = partial(_ask_bare, bare)
        asks: dict[str, Ask] = {
            "an HTTP stream": partial(_ask_http, node),
            "a gRPC stream": partial(_ask_grpc, node, client),
        }
        for protocol, ask_node in asks.items():
            _ask_in_turn(ask_node, ask_bare, 1)  # warm
            pairs = _ask_in_turn(ask_node, ask_bare, _PAIRS)
            yield from _compare(f"{what}: {protocol}", pairs)
            yield _cpu_row(pairs)


def _compare(what: str, pairs: list[tuple[Answer, Answer]]) -> Iterator[Row]:
    streamed, bare = zip(*pairs, strict=True)
    ratios = [ours.tokens_per_second / alone.tokens_per_second for ours, alone in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    yield Row(
        f"{what} against the bare engine",
        f"{statistics.median(answer.tokens_per_second for answer in streamed):.1f} tokens/s",
        f"{statistics.median(answer.tokens_per_second for answer in bare):.1f} tokens/s",
        f"{middle:.3f} (quartiles {low:.3f}-{high:.3f})",
        ">= 0.97",
    )
    later = statistics.median(ours.first_seconds - alone.first_seconds for ours, alone in pairs)
    yield Row(
        "  ... time to the first token",
        _milliseconds(statistics.median(answer.first_seconds for answer in streamed)),
        _milliseconds(statistics.median(answer.first_seconds for answer in bare)),
        f"{later * 1e3:+.1f} ms",
    )


def _cpu_row(pairs: list[tuple[Answer, Answer]]) -> Row:
    """Compare what the node itself works for a token with the time that the engine takes.

    It is what a stream loses where the engine's threads leave no core free.
    """
    # The mean: the kernel counts in hundredths of a second, too coarse for one answer.
    cpu_seconds = statistics.mean(ours.cpu_seconds / ours.tokens for ours, _ in pairs)
    token_seconds = statistics.median(1 / alone.tokens_per_second for _, alone in pairs)
    return Row(
        "  ... CPU of the node but its engine, of a token's time",
        _milliseconds(cpu_seconds),
        _milliseconds(token_seconds),
        f"{cpu_seconds / token_seconds:.3f}",
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def _ask_in_turn(ask_node: Ask, ask_bare: Ask, count: int) -> list[tuple[Answer, Answer]]:
    """Ask both the same, a new prompt each time so that nothing of it is cached.

    Ends early, after two pairs at least, on a machine that is too busy for all of them.
    """
    pairs: list[tuple[Answer, Answer]] = []
    end = time.monotonic() + _ASKING_SECONDS
    while len(pairs) < min(2, count) or (len(pairs) < count and time.monotonic() < end):
        prompt = "".join(random.choices(string.ascii_lowercase, k=_PROMPT_CHARACTERS))
        if len(pairs) % 2:  # neither is always the one that comes after the other
            pairs.append((ask_node(prompt), ask_bare(prompt)))
        else:
            alone = ask_bare(prompt)
            pairs.append((ask_node(prompt), alone))
    return pairs


def _ask_bare(bare: "subprocess.Popen[str]", prompt: str) -> Answer:
    assert bare.stdin is not None
    assert bare.stdout is not None
    bare.stdin.write(json.dumps({"prompt": prompt, "max_tokens": _ANSWER_TOKENS}) + "\n")
    bare.stdin.flush()
    if not select.select([bare.stdout], [], [], _ANSWER_SECONDS)[0]:
        raise TimeoutError(f"the engine alone did not answer within {_ANSWER_SECONDS} s")
    return Answer(**json.loads(bare.stdout.readline()))


def _ask_http(node: Service, prompt: str) -> Answer:
    """Read a stream as cheaply as can be: its time must not be the client's."""
    asked = _request(prompt)
    received = b""
    first_seconds = 0.0
    cpu_before = node.cpu_seconds()
    began = time.perf_counter()
    with socket.create_connection((node.host, node.port), _ANSWER_SECONDS) as connection:
        connection.sendall(asked)
        while _DONE not in received[-2 * len(_DONE) :]:
            if not (read := connection.recv(_READ_BYTES)):
                raise RuntimeError(f"the stream was cut short after {received[-200:]!r}")
            received += read
            if not first_seconds and _EVENT in received:
                first_seconds = time.perf_counter() - began
        seconds = time.perf_counter() - began
    cpu_seconds = node.cpu_seconds() - cpu_before
    return Answer(_count_tokens(received), first_seconds, seconds, cpu_seconds)


def _ask_grpc(node: Service, client: Client, prompt: str) -> Answer:
    """Read a stream with grpcio, on a connection that is there already."""
    asked = ask(prompt=prompt, max_tokens=_ANSWER_TOKENS, seed=1)
    first_seconds = 0.0
    cpu_before = node.cpu_seconds()
    began = time.perf_counter()
    tokens = 0
    for message in client.inference.GenerateStream(asked, timeout=_ANSWER_SECONDS):
        first_seconds = first_seconds or time.perf_counter() - began
        tokens += message.ending.usage.generated_tokens  # told by the last one
    seconds = time.perf_counter() - began
    if tokens != _ANSWER_TOKENS:
        raise RuntimeError(f"{tokens} tokens came, {_ANSWER_TOKENS} were asked for")
    return Answer(tokens, first_seconds, seconds, node.cpu_seconds() - cpu_before)


def _request(prompt: str) -> bytes:
    asked = {
        "prompt": prompt,
        "max_tokens": _ANSWER_TOKENS,
        "temperature": 0,
        "seed": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body = json.dumps(asked).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: node\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _count_tokens(received: bytes) -> int:
    """Read from the stream's account of itself how many tokens it had."""
    account = received[received.rindex(b'{"id"') :].partition(b"\n")[0]
    tokens = json.loads(account)["usage"]["completion_tokens"]
    if tokens != _ANSWER_TOKENS:
        raise RuntimeError(f"{tokens} tokens came, {_ANSWER_TOKENS} were asked for")
    return int(tokens)
