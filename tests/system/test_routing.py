"""Nodes answer for each other: models elsewhere, full queues, and peers that die."""

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
import psutil
import pytest

from node.demo import MODEL_PATH
from tests import grpc_client
from tests.processes import (
    Pair,
    Running,
    Samples,
    free_port,
    scrape,
    stream,
    text_of,
    value,
    wait_for,
)

SECRET = "the secret of the mesh that a test made"
STORY = {"model": "story", "prompt": "Once upon a time there was", "temperature": 0}


class Cluster:
    """Nodes of one mesh, each with an exporter."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self.exporters: dict[str, Running] = {}
        self._seed = free_port()
        self._stack = stack

    def start(self, node_id: str, model: str, *flags: str) -> Running:
        pair = Pair(self.directory / node_id)
        port = 0 if self.exporters else self._seed
        self.exporters[node_id] = self._stack.enter_context(pair.exporter(f"--node-id={node_id}"))
        node = pair.node(
            f"--node-id={node_id}",
            f"--model={model}",
            f"--mesh-port={port}",
            f"--seed-nodes=127.0.0.1:{self._seed}",
            *flags,
        )
        return self._stack.enter_context(node)

    def samples(self, node_id: str) -> Samples:
        return scrape(self.exporters[node_id].url)

    def requests(self, node_id: str, status: str = "ok") -> float:
        return value(self.samples(node_id), "inference_requests_total", status=status) or 0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        yield Cluster(tmp_path, stack)


def knows(node: Running, model: str, peers: int = 1) -> bool:
    """Return whether a node knows this many live peers that have a model in memory."""
    known = httpx.get(f"{node.url}/cluster").json()["peers"]
    ready = [
        peer
        for peer in known
        if peer["state"] == "alive"
        and any(m["model_id"] == model and m["state"] == "ready" for m in peer["advert"]["models"])
    ]
    return len(ready) == peers


def complete(node: Running, **body: Any) -> httpx.Response:
    return httpx.post(f"{node.url}/v1/completions", json=STORY | body, timeout=60)


def engine_of(node: Running) -> int:
    (child,) = psutil.Process(node.process.pid).children()
    return child.pid


def test_model_of_a_peer_is_served_by_every_node(cluster: Cluster) -> None:
    """Every node serves a peer's model, with the same answers."""
    first = cluster.start("a", f"other={MODEL_PATH}")
    second = cluster.start("b", f"story={MODEL_PATH}")
    wait_for(lambda: knows(first, "story"))
    listed = httpx.get(f"{first.url}/v1/models").json()["data"]
    assert [(model["id"], model["max_model_len"]) for model in listed] == [
        ("other", 512),
        ("story", 512),
    ]

    there = complete(second, max_tokens=40).json()
    here = complete(first, max_tokens=40).json()
    assert here["choices"] == there["choices"]
    assert here["usage"]["completion_tokens"] == there["usage"]["completion_tokens"] == 40
    streamed = text_of(list(stream(first.url, max_tokens=40, **STORY)))
    assert streamed == there["choices"][0]["text"]
    measured: dict[str, Any] = {"max_tokens": 3, "logprobs": 2, "echo": True}
    found = complete(first, **measured).json()["choices"]
    assert found == complete(second, **measured).json()["choices"]
    assert len(found[0]["logprobs"]["tokens"]) > 3 + 3

    chat = {"model": "story", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
    asked = [
        httpx.post(f"{node.url}/v1/chat/completions", json=chat, timeout=60).json()["choices"]
        for node in (first, second)
    ]
    assert asked[0] == asked[1]
    with grpc_client.connect(first.url) as client:
        call = grpc_client.ask(model="story", prompt=STORY["prompt"], max_tokens=40)
        assert client.inference.Generate(call, timeout=60).text == streamed

    wait_for(lambda: cluster.requests("b") == 8)

    def forwarded(name: str, **labels: str) -> float | None:
        return value(cluster.samples("a"), name, **labels)

    wait_for(lambda: forwarded("network_latency_seconds_count", operation="forward") == 5)
    sent = {"direction": "sent", "message_type": "forward"}
    wait_for(lambda: forwarded("network_messages_total", **sent) == 5)
    assert cluster.requests("a") == 0


@pytest.mark.slow
def test_errors_of_a_peer_are_its_callers(cluster: Cluster) -> None:
    """A prompt that is too long for the peer is a 400, for streams as well."""
    first = cluster.start("a", f"other={MODEL_PATH}")
    cluster.start("b", f"story={MODEL_PATH}")
    wait_for(lambda: knows(first, "story"))
    for streamed in (False, True):
        response = complete(first, prompt="word " * 3000, stream=streamed)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"
    assert complete(first, model="nobody").status_code == 404


@pytest.mark.slow
def test_request_goes_to_an_idle_peer(cluster: Cluster, slow_model: Path) -> None:
    """While the engine here is busy, requests go to an idle peer."""
    first = cluster.start("a", f"story={slow_model}")
    cluster.start("b", f"story={slow_model}")
    wait_for(lambda: knows(first, "story"))
    running = stream(first.url, max_tokens=1900, **STORY)
    next(running)
    assert [complete(first, max_tokens=5).status_code for _ in range(3)] == [200] * 3
    running.close()  # type: ignore[attr-defined]
    wait_for(lambda: cluster.requests("a", "cancelled") == 1)
    wait_for(lambda: cluster.requests("b") == 3)


@pytest.mark.parametrize(
    "how",
    [
        "node killed",
        pytest.param("node frozen", marks=pytest.mark.slow),
        pytest.param("node drained", marks=pytest.mark.slow),
    ],
)
def test_stream_outlives_its_node(cluster: Cluster, slow_model: Path, how: str) -> None:
    """When a peer dies in the middle of a stream, another one continues the same text."""
    first = cluster.start("a", f"other={MODEL_PATH}")
    second = cluster.start("b", f"story={slow_model}", "--drain-seconds=0.2")
    wait_for(lambda: knows(first, "story"))
    whole = text_of(list(stream(first.url, max_tokens=100, **STORY)))
    chunks = stream(first.url, max_tokens=100, **STORY)
    some = [next(chunks) for _ in range(3)]
    os.kill(engine_of(second), signal.SIGSTOP)  # it must not be complete before the next node is
    third = cluster.start("c", f"story={slow_model}")
    wait_for(lambda: knows(first, "story", peers=2))
    if how == "node killed":
        second.end(signal.SIGKILL)
    elif how == "node frozen":
        second.process.send_signal(signal.SIGSTOP)
    else:
        second.process.terminate()
    rest = list(chunks)
    assert rest[-1]["choices"][0]["finish_reason"] == "length", rest[-1]
    assert text_of(some + rest) == whole
    assert third.process.poll() is None
    wait_for(lambda: value(cluster.samples("c"), "inference_resumed_total") == 1)
    if how == "node frozen":
        second.process.send_signal(signal.SIGCONT)


@pytest.mark.slow
def test_stream_that_nobody_can_go_on_with_ends_in_an_error(
    cluster: Cluster, slow_model: Path
) -> None:
    """When the last node with the model dies, the stream ends with an error event."""
    first = cluster.start("a", f"other={MODEL_PATH}")
    second = cluster.start("b", f"story={slow_model}")
    wait_for(lambda: knows(first, "story"))
    chunks = stream(first.url, max_tokens=500, **STORY)
    next(chunks)
    second.end(signal.SIGKILL)
    assert list(chunks)[-1]["error"]["code"] == "unavailable"
    wait_for(lambda: complete(first).status_code in (404, 503))


@pytest.fixture(scope="module")
def other_model(slow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model file of the same name with one changed matrix."""
    path = tmp_path_factory.mktemp("other") / slow_model.name
    shutil.copy(slow_model, path)
    reader = gguf.GGUFReader(path, "r+")
    changed = next(tensor for tensor in reader.tensors if tensor.name == "blk.0.ffn_up.weight")
    changed.data[:] = np.roll(changed.data, 1, axis=0)
    reader.data.flush()
    return path


@pytest.mark.slow
def test_answer_is_not_gone_on_with_by_other_weights(
    cluster: Cluster, slow_model: Path, other_model: Path
) -> None:
    """A peer with other weights under the same name neither starts nor continues an answer."""
    first = cluster.start("a", f"other={MODEL_PATH}")
    second = cluster.start("b", f"story={slow_model}")
    third = cluster.start("c", f"story={other_model}")
    wait_for(lambda: knows(first, "story", peers=2) and knows(second, "story"))
    texts = [complete(node, max_tokens=20).json()["choices"][0]["text"] for node in (second, third)]
    assert texts[0] != texts[1]

    running = stream(second.url, max_tokens=100, **STORY)
    next(running)
    queued = complete(second, max_tokens=20).json()["choices"][0]["text"]  # although c is idle
    assert queued == texts[0]
    assert len(list(running)) >= 99
    wait_for(lambda: (cluster.requests("b"), cluster.requests("c")) == (3, 1))
    assert "other weights than elsewhere" in second.log.read_text()

    chunks = stream(first.url, max_tokens=1500, **STORY)
    some = text_of([next(chunks) for _ in range(10)])
    served, left = (second, texts[1]) if texts[0].startswith(some[:10]) else (third, texts[0])
    served.end(signal.SIGKILL)
    assert list(chunks)[-1]["error"]["code"] == "unavailable"
    assert [cluster.requests(name) for name in ("b", "c")] == [3, 1]
    assert complete(first, max_tokens=20).json()["choices"][0]["text"] == left


@pytest.mark.slow
def test_caller_that_leaves_frees_the_peers_engine(cluster: Cluster, slow_model: Path) -> None:
    """When a caller leaves, the peer's engine stops at its next token, and the peer counts it."""
    first = cluster.start("a", f"other={MODEL_PATH}")
    cluster.start("b", f"story={slow_model}")
    wait_for(lambda: knows(first, "story"))
    chunks = stream(first.url, max_tokens=1500, **STORY)
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    wait_for(lambda: cluster.requests("b", "cancelled") == 1)
    tokens = value(cluster.samples("b"), "inference_tokens_generated_total") or 0
    assert tokens < 500
    assert complete(first, max_tokens=1).status_code == 200


@pytest.mark.slow
def test_keys_hold_for_the_whole_mesh(cluster: Cluster, tmp_path: Path) -> None:
    """With an API key, peers answer for each other, and no route admits a caller without it."""
    keys, secret = tmp_path / "keys", tmp_path / "secret"
    keys.write_text("open-sesame\n")
    secret.write_text(SECRET)
    flags = (f"--api-key-file={keys}", f"--mesh-secret-file={secret}")
    first = cluster.start("a", f"other={MODEL_PATH}", *flags)
    second = cluster.start("b", f"story={MODEL_PATH}", *flags)
    allowed = {"Authorization": "Bearer open-sesame"}

    def knows_peer() -> bool:
        known = httpx.get(f"{first.url}/cluster", headers=allowed).json()["peers"]
        return bool(known) and known[0]["advert"]["models"][0]["state"] == "ready"

    wait_for(knows_peer)
    assert complete(first).status_code == 401
    answered = httpx.post(
        f"{first.url}/v1/completions", json=STORY | {"max_tokens": 5}, headers=allowed, timeout=60
    )
    assert answered.status_code == 200
    forged = {"x-distributed-llm-signature": "1.00"}
    for headers in ({}, forged, allowed):
        response = httpx.post(f"{second.url}/mesh/v1/generate", content=b"x", headers=headers)
        assert response.status_code == 401
    refused = {"reason": "unauthenticated"}
    wait_for(lambda: value(cluster.samples("b"), "network_errors_total", **refused) == 3)
