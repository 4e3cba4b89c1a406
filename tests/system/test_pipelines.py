"""Real nodes serve a model that fits on none of them, and go on when a worker is lost."""

import threading
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.llama_servers import COMPILED
from tests.patience import patient
from tests.processes import Pair, scrape, stream, text_of, value, wait_for
from tests.real_model import real_model
from tests.split_mesh import ALL_NEEDED, LAYERS, MODEL, ONE_SPARE, SECONDS, Loss, ask, split_mesh

PROMPT: Final = "Once upon a time"
TOKENS: Final = 24

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def unsplit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the greedy text of one node that holds the whole model."""
    if not COMPILED.exists():
        pytest.skip("no llama-server is compiled: run `just llama-server`")
    model = f"--model={MODEL}={real_model()},engine=llama.cpp,context=1024,slots=1"
    pair = Pair(tmp_path_factory.mktemp("whole"))
    # A split does not repack weights either: see `node.pipeline.splits`.
    flags = (f"--llama-server={COMPILED}", "--gpu-layers=0", "--llama-server-args=--no-repack")
    with pair.node(model, *flags) as node:
        return str(ask(node.url, PROMPT, TOKENS)["choices"][0]["text"])


def test_model_that_fits_no_node_is_served_by_three(tmp_path: Path) -> None:
    """Every layer is on one of three nodes, and two streams are answered at once."""
    with split_mesh(tmp_path, ALL_NEEDED, slots=2, exporters=True) as mesh:
        stages = mesh.wait_up()
        assert [stage["node_id"] for stage in stages] == ["a", "b", "c"]
        assert [s["first"] + s["layers"] for s in stages[:-1]] == [s["first"] for s in stages[1:]]

        def allocated() -> float:
            held = [
                value(scrape(exporter.url), "layers_allocated", model_id=MODEL, node_id=name)
                for name, exporter in mesh.exporters.items()
            ]
            return sum(each or 0 for each in held)

        wait_for(lambda: allocated() == LAYERS, 60)
        for stage in stages:  # the plan counts no less than the engine reports
            device = "CPU" if stage["node_id"] == "a" else stage["node_id"]
            samples = scrape(mesh.exporters["a"].url)
            used = value(samples, "engine_memory_bytes", model_id=MODEL, device=device)
            assert used is not None
            assert 0 < used < stage["memory_bytes"]
        texts = both_streams(mesh.url)
        assert all(texts)
        samples = scrape(mesh.exporters["a"].url)
        assert value(samples, "pipeline_stages_up", model_id=MODEL) == len(stages)
        wait_for(
            lambda: value(
                scrape(mesh.exporters["a"].url),
                "pipeline_bytes_total",
                model_id=MODEL,
                direction="received",
            )
        )


def both_streams(url: str) -> list[str]:
    """Return the texts of two streams that run at once."""
    texts = ["", ""]

    def follow(number: int) -> None:
        asked = {"model": MODEL, "max_tokens": TOKENS, "temperature": 0, "prompt": f"{number}"}
        texts[number] = text_of(list(stream(url, **asked)))

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(patient(SECONDS))
    return texts


@pytest.mark.parametrize("how", ["killed", "frozen", "node-killed"])
def test_lost_worker_costs_no_answer(how: Loss, tmp_path: Path, unsplit: str) -> None:
    """The stream goes on with the same text, over the node that is left."""
    with split_mesh(tmp_path, ONE_SPARE) as mesh:
        before = mesh.wait_up()
        chunks: list[dict[str, Any]] = []
        asked = {"model": MODEL, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
        for chunk in stream(mesh.url, **asked):
            chunks.append(chunk)
            if len(chunks) == TOKENS // 3:
                mesh.lose_worker(how)
        assert text_of(chunks) == unsplit
        assert mesh.wait_up()[-1]["node_id"] != before[-1]["node_id"]


def test_model_that_cannot_be_held_comes_back(tmp_path: Path, unsplit: str) -> None:
    """Without its workers' nodes the model answers 503 with the reason, and returns with one."""
    limits = {name: ONE_SPARE[name] for name in ("b", "a")}
    with split_mesh(tmp_path, limits) as mesh:
        mesh.wait_up()
        mesh.lose_worker("drained")
        refused = wait_for(lambda: refusal(mesh.url), SECONDS)
        assert refused["code"] == "insufficient_memory"
        assert "b" in refused["message"]
        health = httpx.get(f"{mesh.url}/health", timeout=patient(20))
        assert health.status_code == 503
        assert "do not fit" in health.text or "fit on no node" in health.text
        # In the place of the seed, which has left.
        with mesh.start("c", ONE_SPARE["c"], f"--mesh-port={mesh.seed}"):
            mesh.wait_up()
            assert ask(mesh.url, PROMPT, TOKENS)["choices"][0]["text"] == unsplit


def refusal(url: str) -> dict[str, Any]:
    """Return the error of a request that is refused; empty if it is answered."""
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": 1}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=patient(SECONDS))
    error: dict[str, Any] = answer.json().get("error", {})
    return error if answer.status_code == 503 else {}
