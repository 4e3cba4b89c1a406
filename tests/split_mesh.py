"""Three real nodes whose memory limits let a model fit on none of them."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import httpx
import psutil
import pytest

from tests.llama_servers import COMPILED
from tests.patience import patient
from tests.processes import Pair, Running, free_port, name_of, wait_for
from tests.real_model import real_model

MODEL: Final = "split"
LAYERS: Final = 18
Loss = Literal["killed", "frozen", "node-killed", "node-frozen", "drained"]
"""How a worker is lost."""
SECONDS: Final = 240.0
"""For a load or an answer; a busy machine may take ten times as long as an idle one."""
ALL_NEEDED: Final = {"b": 245, "c": 593, "a": 370}
"""MiB of each node with which all three are needed, for two slots."""
ONE_SPARE: Final = {"b": 640, "c": 640, "a": 390}
"""MiB of each node with which the first and one of the others suffice, for one slot."""


@dataclass
class SplitMesh:
    """The running nodes. Only `a` has the model's file; the others have the demo model."""

    directory: Path
    seed: int
    nodes: dict[str, Running] = field(default_factory=dict)
    exporters: dict[str, Running] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The API of the coordinator."""
        return self.nodes["a"].url

    @contextlib.contextmanager
    def start(self, name: str, limit_mib: int, *flags: str) -> Iterator[None]:
        """Run one more node until the block ends."""
        node = Pair(self.directory / name).node(
            f"--node-id={name}",
            f"--mesh-port={0 if self.nodes else self.seed}",
            f"--seed-nodes=127.0.0.1:{self.seed}",
            f"--llama-server={COMPILED}",
            "--gpu-layers=0",
            f"--memory-limit-mib={limit_mib}",
            *flags,
        )
        with node as self.nodes[name]:
            yield

    def stages(self) -> list[dict[str, Any]]:
        """Return the stages that the coordinator offers."""
        cluster = httpx.get(f"{self.url}/cluster", timeout=patient(20)).json()
        stages: list[dict[str, Any]] = cluster["advert"]["stages"]
        return stages

    def wait_up(self) -> list[dict[str, Any]]:
        """Wait until the model is served, and return its stages."""
        found: list[dict[str, Any]] = wait_for(self._stages_up, SECONDS)
        return found

    def lose_worker(self, how: Loss) -> None:
        """Lose the last stage's worker, or its node."""
        node = psutil.Process(self.nodes[self.stages()[-1]["node_id"]].process.pid)
        workers = [each for each in node.children(recursive=True) if _is_worker(each)]
        lost = workers if how in ("killed", "frozen") else [node]
        assert lost
        numbers = {
            "frozen": signal.SIGSTOP,
            "node-frozen": signal.SIGSTOP,
            "drained": signal.SIGTERM,
        }
        for process in lost:
            process.send_signal(numbers.get(how, signal.SIGKILL))

    def _stages_up(self) -> list[dict[str, Any]]:
        stages = self.stages()
        return stages if all(stage["state"] == "up" for stage in stages) else []


def _is_worker(process: psutil.Process) -> bool:
    return "ggml-rpc-server" in name_of(process)


@contextlib.contextmanager
def split_mesh(
    directory: Path, limits: dict[str, int], slots: int = 1, *, exporters: bool = False
) -> Iterator[SplitMesh]:
    """Run the nodes until the block ends; entered when they listen. The coordinator is the last.

    Args:
        directory: For their files.
        limits: MiB of each node.
        slots: Of the model.
        exporters: Whether each node has one.
    """
    if not COMPILED.exists():
        pytest.skip("no llama-server is compiled: run `just llama-server`")
    model = f"--model={MODEL}={real_model()},engine=llama.cpp,context=1024,slots={slots}"
    mesh = SplitMesh(directory, free_port())
    with contextlib.ExitStack() as stack:
        for name, limit in limits.items():
            if exporters:
                pair = Pair(directory / name)
                mesh.exporters[name] = stack.enter_context(pair.exporter(f"--node-id={name}"))
            stack.enter_context(mesh.start(name, limit, *([model] if name == "a" else [])))
        yield mesh


def ask(url: str, prompt: str, tokens: int) -> dict[str, Any]:
    """Return a greedy completion, not streamed."""
    body = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=patient(SECONDS))
    answer.raise_for_status()
    whole: dict[str, Any] = answer.json()
    return whole
