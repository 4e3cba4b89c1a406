"""A llama-server whose layers are held by workers, driven without a coordinator."""

import os
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from node.pipeline.tunnel import Claim
from tests.llama_servers import COMPILED
from tests.patience import patient
from tests.processes import free_port, wait_for

WORKER: Final = COMPILED.with_name("ggml-rpc-server")
WORKER_BYTES: Final = 400 * 2**20
"""More than a half of the real model with its logits."""
_HOST: Final = "127.0.0.1"
_LOAD_SECONDS: Final = 120.0
_PROMPT: Final = "Once upon a time there was"


@dataclass
class Split:
    """A llama-server that has loaded its model."""

    process: "subprocess.Popen[bytes]"
    port: int

    def generate(self, tokens: int) -> tuple[str, float]:
        """Return the greedy text and the tokens per second after the first."""
        asked: dict[str, Any] = {
            "prompt": _PROMPT,
            "n_predict": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        url = f"http://{_HOST}:{self.port}/completion"
        answer = httpx.post(url, json=asked, timeout=patient(_LOAD_SECONDS))
        answer.raise_for_status()
        told = answer.json()
        return told["content"], told["timings"]["predicted_per_second"]


@contextmanager
def run_llama(model: Path, log: Path, *flags: str) -> Iterator[Split]:
    """Run a llama-server with one slot and one thread until the block ends."""
    port = free_port()
    values = {"model": model, "host": _HOST, "port": port, "threads": 1, "ctx-size": 512, "poll": 0}
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    environment = os.environ | {"GGML_NO_BACKTRACE": "1", "OMP_WAIT_POLICY": "passive"}
    with (
        log.open("w") as printed,
        subprocess.Popen(
            [str(COMPILED), *words, "--parallel", "1", "--no-webui", *flags],
            stdout=printed,
            stderr=printed,
            env=environment,
        ) as process,
    ):
        try:
            wait_for(lambda: process.poll() is not None or _is_ready(port), _LOAD_SECONDS)
            assert process.poll() is None, log.read_text()[-2000:]
            yield Split(process, port)
        finally:
            process.kill()


def over(endpoints: Sequence[str], layers: int) -> tuple[str, ...]:
    """Return the flags that spread the layers and the output evenly over workers."""
    counts = [(layers + 1) // len(endpoints)] * len(endpoints)
    counts[-1] += layers + 1 - sum(counts)
    split = ",".join(map(str, counts))
    return "--rpc", ",".join(endpoints), "--tensor-split", split, "--n-gpu-layers", "99"


@contextmanager
def run_worker() -> Iterator[str]:
    """Run a worker without a tunnel until the block ends; yield its endpoint."""
    port = free_port()
    with subprocess.Popen(
        [str(WORKER), "--port", str(port), "--threads", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield f"{_HOST}:{port}"
        finally:
            process.kill()


def new_claim(node_id: str, build: str) -> Claim:
    """Return a claim of a new pipeline."""
    return Claim(node_id, secrets.token_hex(8), "split", WORKER_BYTES, build)


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://{_HOST}:{port}/health", timeout=5).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
