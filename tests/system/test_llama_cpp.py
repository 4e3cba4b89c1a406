"""A real node with models of current architectures: each is loaded, streamed and unloaded."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest

from tests.grpc_client import Client, connect, pb
from tests.patience import patient
from tests.processes import Pair, Running, command_of, scrape, stream, text_of, value, wait_for
from tests.random_models import DEEP, NAMES, random_model

VECTORS: Final = ("embedder", "ranker")
TEXTS: Final = [name for name in NAMES if name not in VECTORS]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model of each architecture, and one whose answers last for seconds."""
    directory = tmp_path_factory.mktemp("models")
    (directory / "deep.gguf").symlink_to(random_model("qwen3", DEEP))
    for name in NAMES:
        (directory / f"{name}.gguf").symlink_to(random_model(name))
    return directory


@pytest.fixture(scope="module")
def running(
    models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, Running, Client]]:
    """Yield a node with every model, its exporter and a gRPC client."""
    pair = Pair(tmp_path_factory.mktemp("node"))
    flags = [
        f"--model={models / 'qwen3.gguf'}",
        f"--models-dir={models}",
        "--context-length=1024",
        "--slots=2",
    ]
    with pair.exporter() as exporter, pair.node(*flags) as node, connect(node.url) as client:
        yield node, exporter, client


def post(node: Running, path: str, body: dict[str, Any]) -> httpx.Response:
    """Send a request, which may have to wait for its model to load."""
    return httpx.post(f"{node.url}{path}", json=body, timeout=patient(60))


def load(client: Client, *names: str) -> None:
    """Load models, also such as were unloaded before."""
    for name in names:
        client.inference.LoadModel(pb.LoadModelRequest(model=name))


def unload(client: Client, name: str) -> str:
    """Unload a model; return its state."""
    return str(client.inference.UnloadModel(pb.UnloadModelRequest(model=name)).model.state)


@pytest.mark.parametrize("name", TEXTS)
def test_text_model_is_loaded_streamed_and_unloaded(
    running: tuple[Running, Running, Client], name: str
) -> None:
    """A model is loaded for its first request, streams its answer, and is unloaded."""
    node, exporter, client = running
    asked: dict[str, Any] = {"model": name, "max_tokens": 12, "temperature": 0}
    chunks = list(stream(node.url, **asked))
    whole = post(node, "/v1/completions", {"prompt": "Once upon a time"} | asked)
    assert text_of(chunks) == whole.json()["choices"][0]["text"]
    wait_for(lambda: value(scrape(exporter.url), "model_info", model_id=name, engine="llama.cpp"))
    labels = {"model_id": name, "state": "capacity"}
    wait_for(lambda: value(scrape(exporter.url), "engine_context_tokens", **labels))
    unload(client, name)
    wait_for(lambda: value(scrape(exporter.url), "model_info", model_id=name) is None)


def test_several_texts_become_vectors_of_one_length(
    running: tuple[Running, Running, Client],
) -> None:
    """An embedding model returns a vector for each text, and refuses to write."""
    node, _, client = running
    asked = {"model": "embedder", "input": ["hello", "world", "hello"]}
    answer = post(node, "/v1/embeddings", asked).json()
    first, second, third = (one["embedding"] for one in answer["data"])
    assert first == pytest.approx(third, abs=1e-4)
    assert first != second
    assert sum(number**2 for number in first) == pytest.approx(1, abs=1e-3)
    refused = post(node, "/v1/completions", {"model": "embedder", "prompt": "x"})
    assert refused.status_code == 400
    assert "vectors only" in refused.json()["error"]["message"]
    unload(client, "embedder")


def test_documents_are_sorted_by_their_scores(running: tuple[Running, Running, Client]) -> None:
    """A reranking model sorts documents; another model does not rerank."""
    node, _, client = running
    asked = {"query": "hello", "documents": ["world", {"text": "hello"}, "a b c"]}
    answer = post(node, "/v1/rerank", asked | {"model": "ranker"}).json()
    scores = [one["relevance_score"] for one in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert {one["index"] for one in answer["results"]} == {0, 1, 2}
    best = post(
        node,
        "/v1/rerank",
        asked | {"model": "ranker", "top_n": 1, "return_documents": True},
    ).json()["results"]
    assert [one["index"] for one in best] == [answer["results"][0]["index"]]
    assert best[0]["document"]["text"] in ("world", "hello", "a b c")
    load(client, "embedder", "qwen3")
    for name in ("embedder", "qwen3"):
        refused = post(node, "/v1/rerank", asked | {"model": name})
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] != "internal_error"
    for name in VECTORS:
        unload(client, name)


def test_killed_engine_costs_no_stream(running: tuple[Running, Running, Client]) -> None:
    """Two streams outlive their engine: what was sent stays, and both end in full."""
    node, exporter, client = running
    load(client, "deep")
    engines = [
        child
        for child in psutil.Process(node.process.pid).children(recursive=True)
        if "node.engine.llama_cpp.server" in command_of(child)
    ]
    texts: dict[int, str] = {}
    tokens: dict[int, int] = {}
    begun = threading.Barrier(3)

    def follow(number: int) -> None:
        chunks: list[dict[str, Any]] = []
        for chunk in stream(
            node.url,
            model="deep",
            prompt=f"story {number}",
            max_tokens=300,
            temperature=0,
            ignore_eos=True,
            stream_options={"include_usage": True},
        ):
            chunks.append(chunk)
            if len(chunks) == 5:
                begun.wait(60)
        texts[number] = text_of(chunks)
        tokens[number] = chunks[-1]["usage"]["completion_tokens"]

    followers = [threading.Thread(target=follow, args=(number,)) for number in range(2)]
    for follower in followers:
        follower.start()
    begun.wait(60)
    for engine in engines:
        os.kill(engine.pid, signal.SIGKILL)
    for follower in followers:
        follower.join()
    assert tokens == {0: 300, 1: 300}
    assert all(texts.values())
    wait_for(lambda: value(scrape(exporter.url), "inference_resumed_total", model_id="deep") == 2)
