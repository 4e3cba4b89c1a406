"""Node and exporter as two processes: any order of start, deaths, and real clients."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
import openai
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from node.demo import MODEL_PATH
from tests import commands
from tests.grpc_client import Client, connect, pb
from tests.processes import (
    PREFIX,
    Pair,
    Running,
    command_of,
    scrape,
    stream,
    text_of,
    value,
    wait_for,
)

DUE = {
    "node_status": {"node_id"},
    "node_uptime_seconds": {"node_id"},
    "node_resources": {"node_id", "resource_type"},
    "inference_requests_total": {"node_id", "model_id", "status"},
    "inference_latency_seconds": {"node_id", "model_id", "status"},
    "inference_tokens_generated": {"node_id", "model_id"},
    "models_loaded": {"node_id"},
    "model_size_bytes": {"node_id", "model_id"},
    "layers_allocated": {"node_id", "model_id"},
    "system_memory_usage_bytes": {"node_id", "memory_type"},
    "system_cpu_usage_percent": {"node_id", "scope"},
    "system_goroutines": {"node_id"},
    "health_check_total": {"check", "status"},
    "health_check_latency_seconds": {"check"},
}
"""The promised metrics with their labels, except those of the network."""


def complete(node: Running, **body: Any) -> dict[str, Any]:
    """Request a completion in one piece."""
    asked = {"prompt": "Once upon a time", "max_tokens": 8} | body
    response = httpx.post(f"{node.url}/v1/completions", json=asked, timeout=60)
    response.raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


def test_contract_metrics_are_in_a_scrape_of_the_running_system(
    shared_exporter: Running, shared_node: Running
) -> None:
    """Each promised metric is in a scrape, with its labels."""
    complete(shared_node)
    wait_for(lambda: value(scrape(shared_exporter.url), "inference_tokens_generated_total"))
    shown = {
        (name.removeprefix(PREFIX), frozenset(dict(labels)) - {"le"})
        for name, labels in scrape(shared_exporter.url)
    }
    for name, labels in DUE.items():
        spellings = (name, f"{name}_total", f"{name}_bucket")
        assert any((spelling, frozenset(labels)) in shown for spelling in spellings), name


EACH_SECOND = {"engine_silent_seconds", "engine_context_tokens", "engine_context_usage_ratio"}
"""Levels that are sent once a second, not at each change."""


@pytest.mark.slow
def test_any_order_of_start_counts_everything(pair: Pair) -> None:
    """A request made before the exporter started is counted when it starts."""
    with pair.node() as node:
        complete(node)
        with pair.exporter() as exporter:
            wait_for(
                lambda: value(scrape(exporter.url), "inference_requests_total", status="ok") == 1
            )
            samples = scrape(exporter.url)
            assert value(samples, "telemetry_events_lost", node_id="node1") == 0
            assert value(samples, "models_loaded", node_id="node1") == 1


def test_exporter_outlives_its_node(pair: Pair) -> None:
    """A node killed with -9 is shown as gone; its counters stay and its gauges disappear."""
    with pair.exporter() as exporter:
        with pair.node() as node:
            complete(node)
            wait_for(lambda: value(scrape(exporter.url), "inference_requests_total", status="ok"))
            assert node.end(signal.SIGKILL) == -signal.SIGKILL
        wait_for(lambda: value(scrape(exporter.url), "node_up") == 0, seconds=4)
        samples = scrape(exporter.url)
        assert value(samples, "node_status") == 0
        assert value(samples, "inference_requests_total", status="ok") == 1
        assert value(samples, "node_ends_total", reason="lost") == 1
        assert value(samples, "node_ends_total", reason="goodbye") == 0
        assert value(samples, "system_memory_usage_bytes") is None
        assert (value(samples, "exporter_last_event_timestamp_seconds") or 0) > time.time() - 60
        assert httpx.get(f"{exporter.url}/health").status_code == 503
        assert httpx.get(f"{exporter.url}/readyz").status_code == 503
        assert httpx.get(f"{exporter.url}/livez").status_code == 200


@pytest.mark.slow
def test_node_restart_goes_on_counting(pair: Pair) -> None:
    """A node's counters continue after its restart."""
    with pair.exporter() as exporter:
        for turn in (1, 2):
            with pair.node() as node:
                complete(node)
                assert node.end() == 0
            assert value(scrape(exporter.url), "inference_requests_total", status="ok") == turn


def test_engine_child_killed_is_not_seen_by_its_client(pair: Pair, slow_model: Path) -> None:
    """When an engine is killed, its stream continues with the same text, and that is counted."""
    with pair.exporter() as exporter, pair.node(f"--model={slow_model}") as node:
        whole = text_of(list(stream(node.url, max_tokens=200, temperature=0)))
        chunks = stream(node.url, max_tokens=200, temperature=0)
        first = next(chunks)
        os.kill(_engine_pid(node), signal.SIGKILL)
        assert text_of([first, *chunks]) == whole
        wait_for(lambda: value(scrape(exporter.url), "inference_requests_total", status="ok") == 2)
        samples = scrape(exporter.url)
        assert value(samples, "inference_resumed_total", reason="crashed") == 1
        assert value(samples, "engine_restarts_total", reason="crashed") == 1
        assert value(samples, "inference_tokens_generated_total") == 400


@pytest.mark.slow
def test_engine_that_does_not_come_back_is_an_error(
    pair: Pair, slow_model: Path, tmp_path: Path
) -> None:
    """If no engine can be started, the stream ends with an error event."""
    model = tmp_path / "model.gguf"
    model.hardlink_to(slow_model)
    with pair.node(f"--model={model}") as node:
        chunks = stream(node.url, max_tokens=1000, temperature=0)
        next(chunks)
        model.unlink()
        os.kill(_engine_pid(node), signal.SIGKILL)
        last = list(chunks)[-1]
        assert last["error"]["code"] == "unavailable"
        assert "no model file" in last["error"]["message"]
        assert _post(node, {"prompt": "x"}).status_code == 503
        model.hardlink_to(slow_model)
        wait_for(lambda: _post(node, {"prompt": "x", "max_tokens": 1}).status_code == 200)


@pytest.mark.slow
def test_request_has_its_time(pair: Pair, slow_model: Path) -> None:
    """Past the time limit an answer is a 504, a stream ends with an error, and both count."""
    with (
        pair.exporter() as exporter,
        pair.node(f"--model={slow_model}", "--request-seconds=1") as node,
    ):
        response = _post(node, {"prompt": "x", "max_tokens": 1900})
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "deadline_exceeded"
        last = list(stream(node.url, max_tokens=1900))[-1]
        assert last["error"]["code"] == "deadline_exceeded"
        samples = wait_for(lambda: _timed_out(exporter))
        discarded = value(samples, "inference_tokens_discarded_total", reason="timeout")
        assert 0 < (discarded or 0) <= (value(samples, "inference_tokens_generated_total") or 0)


def _timed_out(exporter: Running) -> Any:
    samples = scrape(exporter.url)
    done = value(samples, "inference_requests_total", status="timeout") == 2
    return samples if done and value(samples, "inference_requests_in_flight") == 0 else None


@pytest.mark.slow
def test_model_that_ends_the_node_is_counted(pair: Pair, tmp_path: Path) -> None:
    """A node that cannot serve its model reports the failed load, and no goodbye."""
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(MODEL_PATH.read_bytes()[:300_000])
    command = [sys.executable, "-m", "node", *pair.flags, f"--model={damaged}"]
    with pair.exporter() as exporter:
        done = subprocess.run(
            [*command, "--node-id=node1", "--api-port=0", "--mesh-port=0"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, "damaged.gguf is damaged" in done.stderr) == (1, True)
        samples = wait_for(lambda: _lost(exporter))
        assert value(samples, "model_loads_total", result="error") == 1
        assert value(samples, "node_departed") == 0


def _lost(exporter: Running) -> Any:
    samples = scrape(exporter.url)
    return samples if value(samples, "node_ends_total", reason="lost") == 1 else None


@pytest.mark.slow
def test_models_are_loaded_when_asked_for_and_let_go_when_idle(
    pair: Pair, slow_model: Path, tmp_path: Path
) -> None:
    """A model of a directory is loaded on demand; an idle one leaves memory and metrics."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "other.gguf").hardlink_to(slow_model)
    flags = (f"--models-dir={tmp_path / 'more'}", "--idle-unload-seconds=1", "--model=tiny=")
    with pair.exporter() as exporter, pair.node(*flags[:2], flags[2] + str(MODEL_PATH)) as node:
        # The gauge of loaded models may be 0 again: a second without a request is soon over.
        wait_for(lambda: value(scrape(exporter.url), "model_loads_total", model_id="tiny") == 1)
        assert httpx.get(f"{node.url}/health").json()["engines"]["other"] == "unloaded"
        for model in ("other", "tiny"):
            asked = {"model": model, "prompt": "x", "max_tokens": 2}
            assert _post(node, asked).json()["usage"]["completion_tokens"] == 2
        wait_for(lambda: _unloaded(exporter, "other"))
        wait_for(lambda: _unloaded(exporter, "tiny"))
        assert httpx.get(f"{node.url}/health").status_code == 200
        assert _post(node, {"model": "other", "prompt": "x", "max_tokens": 1}).status_code == 200
        wait_for(
            lambda: (value(scrape(exporter.url), "model_loads_total", model_id="other") or 0) > 1
        )


def _unloaded(exporter: Running, model: str) -> bool:
    samples = scrape(exporter.url)
    gone = value(samples, "model_size_bytes", model_id=model) is None
    return gone and (value(samples, "model_unloads_total", model_id=model, reason="idle") or 0) > 0


@pytest.mark.slow
def test_levels_are_back_with_the_engine(pair: Pair) -> None:
    """After a crash, slots and queue are shown again as soon as the model is loaded."""
    with pair.exporter() as exporter, pair.node() as node:
        wait_for(lambda: "inference_slots" in _levels(exporter, "demo"))
        before = _levels(exporter, "demo")
        os.kill(_engine_pid(node), signal.SIGKILL)
        wait_for(lambda: value(scrape(exporter.url), "engine_restarts_total", reason="crashed"))
        wait_for(lambda: "model_size_bytes" in _levels(exporter, "demo"))
        assert _levels(exporter, "demo") >= before - EACH_SECOND


@pytest.mark.slow
def test_model_that_could_not_be_loaded_has_no_levels(
    pair: Pair, slow_model: Path, tmp_path: Path
) -> None:
    """A model whose load failed or was cancelled has no queue and no slots."""
    (tmp_path / "more").mkdir()
    other = tmp_path / "more" / "other.gguf"
    other.hardlink_to(slow_model)
    flags = (f"--models-dir={tmp_path / 'more'}", f"--model=tiny={MODEL_PATH}")
    with pair.exporter() as exporter, pair.node(*flags) as node, connect(node.url) as client:
        tiny = _engine_pid(node)
        loading = _hang_load(client, node, tiny)
        wait_for(lambda: _levels(exporter, "other"))
        client.inference.UnloadModel(pb.UnloadModelRequest(model="other"))
        assert loading.exception().code() is grpc.StatusCode.UNAVAILABLE
        wait_for(lambda: not _levels(exporter, "other"))
        client.inference.LoadModel(pb.LoadModelRequest(model="other"))
        client.inference.UnloadModel(pb.UnloadModelRequest(model="other"))
        other.unlink()
        with pytest.raises(grpc.RpcError):
            client.inference.LoadModel(pb.LoadModelRequest(model="other"))
        assert _post(node, {"model": "other", "prompt": "x", "max_tokens": 1}).status_code == 503
        wait_for(lambda: value(scrape(exporter.url), "inference_requests_total", status="error"))
        assert value(scrape(exporter.url), "model_loads_total", result="error") == 2
        assert not _levels(exporter, "other")


def _hang_load(client: Client, node: Running, tiny: int) -> Any:
    """Return a load of the other model whose engine was stopped before it ended."""
    while True:
        loading = client.inference.LoadModel.future(pb.LoadModelRequest(model="other"))
        wait_for(lambda: _suspend_other(node, tiny) or loading.done())  # noqa: B023
        if not loading.done():
            return loading
        client.inference.UnloadModel(pb.UnloadModelRequest(model="other"))


def _levels(exporter: Running, model: str) -> set[str]:
    """Return the names of a model's gauges that end with its load.

    `layers_unserved` does not: it comes with the node's levels, every ten seconds.
    """
    response = httpx.get(f"{exporter.url}/metrics")
    return {
        family.name.removeprefix(PREFIX)
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
        if family.type == "gauge" and sample.labels.get("model_id") == model
    } - {"layers_unserved"}


def _suspend_other(node: Running, pid: int) -> bool:
    """Suspend the child that is not this one; return whether there is one."""
    children = psutil.Process(node.process.pid).children()
    # A stopped child that has not yet started its program would block the thread that starts it.
    others = [
        c for c in children if c.pid != pid and "node.engine.ctransformers.child" in command_of(c)
    ]
    for child in others:
        child.suspend()
    return bool(others)


def test_engine_ends_with_its_node(pair: Pair) -> None:
    """A node killed with -9 leaves no engine child behind."""
    with pair.node() as node:
        engine = psutil.Process(_engine_pid(node))
        node.end(signal.SIGKILL)
        engine.wait(timeout=10)


@pytest.mark.slow
def test_hung_engine_is_replaced(pair: Pair, slow_model: Path) -> None:
    """A hung engine is killed by the watchdog, and its stream continues."""
    with (
        pair.exporter() as exporter,
        pair.node(f"--model={slow_model}", "--stall-seconds=1") as node,
    ):
        chunks = stream(node.url, max_tokens=300, temperature=0)
        next(chunks)
        os.kill(_engine_pid(node), signal.SIGSTOP)
        assert list(chunks)[-1]["choices"][0]["finish_reason"] == "length"
        wait_for(
            lambda: value(scrape(exporter.url), "inference_resumed_total", reason="stalled") == 1
        )
        assert value(scrape(exporter.url), "engine_restarts_total", reason="stalled") == 1


@pytest.mark.slow
def test_wedged_engine_is_unhealthy_until_it_is_replaced(pair: Pair, slow_model: Path) -> None:
    """Work without progress is a 503 that names the model, until the engine is replaced."""
    with (
        pair.exporter("--engine-silence-seconds=1") as exporter,
        pair.node(f"--model={slow_model}", "--stall-seconds=5") as node,
    ):
        wait_for(lambda: _status(exporter, "/health") == 200)
        chunks = stream(node.url, max_tokens=1000, temperature=0)
        next(chunks)
        os.kill(_engine_pid(node), signal.SIGSTOP)
        report = wait_for(lambda: _stalled(exporter))
        assert any(slow_model.stem in reason for reason in report["reasons"])
        assert _status(exporter, "/readyz") == 503
        assert (value(scrape(exporter.url), "engine_silent_seconds") or 0) > 1
        assert next(chunks)
        wait_for(lambda: _status(exporter, "/health") == 200)
        assert value(scrape(exporter.url), "engine_restarts_total", reason="stalled") == 1


def _status(exporter: Running, path: str) -> int:
    return httpx.get(f"{exporter.url}{path}").status_code


def _stalled(exporter: Running) -> Any:
    response = httpx.get(f"{exporter.url}/health")
    report = response.json()
    failed = report["checks"].get("engine", {}).get("status") == "failed"
    return report if response.status_code == 503 and failed else None


@pytest.mark.slow
def test_long_prompt_is_no_stall(pair: Pair, slow_model: Path) -> None:
    """A long prompt makes progress in chunks and is not a stall."""
    limit_seconds = 2.0
    with (
        pair.exporter(f"--engine-silence-seconds={limit_seconds}") as exporter,
        pair.node(f"--model={slow_model}", f"--stall-seconds={limit_seconds}") as node,
        ThreadPoolExecutor(1) as client,
    ):
        wait_for(lambda: _status(exporter, "/health") == 200)
        asked = client.submit(_post, node, {"prompt": "word " * 400, "max_tokens": 1})
        while not asked.done():
            assert _status(exporter, "/health") == 200
            time.sleep(0.1)  # probing without a pause would take the engine's core
        assert asked.result().json()["usage"]["prompt_tokens"] == 2002
        prefill_seconds = wait_for(
            lambda: value(scrape(exporter.url), "inference_prefill_seconds_sum")
        )
        if prefill_seconds <= limit_seconds:
            pytest.skip("this machine reads a long prompt within the limit")


def test_client_that_leaves_stops_the_engine(pair: Pair, slow_model: Path) -> None:
    """A cancelled stream frees the engine at once; its tokens and its end are counted."""
    with pair.exporter() as exporter, pair.node(f"--model={slow_model}") as node:
        chunks = stream(node.url, max_tokens=1500, temperature=0)
        for _ in range(5):
            next(chunks)
        chunks.close()  # type: ignore[attr-defined]
        complete(node, max_tokens=1)  # waits for the engine
        samples = wait_for(lambda: _cancelled(exporter))
        generated = value(samples, "inference_tokens_generated_total") or 0
        assert generated < 100
        assert value(samples, "inference_finish_total", reason="cancelled") == 1
        wait_for(lambda: value(scrape(exporter.url), "inference_requests_in_flight") == 0)


def _cancelled(exporter: Running) -> Any:
    samples = scrape(exporter.url)
    done = value(samples, "inference_requests_total", status="cancelled") == 1
    return (
        samples if done and value(samples, "inference_requests_total", status="ok") == 1 else None
    )


def test_sigterm_lets_a_running_stream_finish(pair: Pair, slow_model: Path) -> None:
    """After SIGTERM a running stream finishes within the grace, and the exit code is 0."""
    with pair.exporter() as exporter, pair.node(f"--model={slow_model}") as node:
        chunks = stream(node.url, max_tokens=150, temperature=0)
        first = next(chunks)
        node.process.terminate()
        rest = list(chunks)
        assert rest[-1]["choices"][0]["finish_reason"] == "length"
        assert text_of([first, *rest])
        assert node.process.wait(timeout=20) == 0
        wait_for(lambda: value(scrape(exporter.url), "node_up") == 0)
        samples = scrape(exporter.url)
        assert value(samples, "inference_requests_total", status="ok") == 1
        assert value(samples, "telemetry_events_lost") == 0
        assert value(samples, "engine_restarts_total") == 0
        assert value(samples, "node_ends_total", reason="goodbye") == 1
        assert value(samples, "node_ends_total", reason="lost") == 0
        assert value(samples, "model_unloads_total", reason="requested") == 1
        assert value(samples, "model_unloads_total") == 1


@pytest.mark.slow
def test_sigterm_cuts_a_stream_after_the_grace_with_an_error(pair: Pair, slow_model: Path) -> None:
    """A stream longer than the grace ends with an error event, and the exit code is 0."""
    with pair.exporter(), pair.node(f"--model={slow_model}", "--drain-seconds=0.5") as node:
        chunks = stream(node.url, max_tokens=1900, temperature=0)
        next(chunks)
        node.process.terminate()
        assert list(chunks)[-1]["error"]["code"] == "stopped"
        assert node.process.wait(timeout=20) == 0


@pytest.mark.slow
def test_full_queue_answers_429(pair: Pair, slow_model: Path) -> None:
    """When the queue has one place left, the second request gets 429."""
    with (
        pair.node(f"--model={slow_model}", "--queue=1") as node,
        ThreadPoolExecutor(2) as clients,
    ):
        running = stream(node.url, max_tokens=1500, temperature=0)
        next(running)
        asked = [clients.submit(_post, node, {"prompt": "x", "max_tokens": 1}) for _ in range(2)]
        done, waiting = wait(asked, timeout=10, return_when=FIRST_COMPLETED)
        refused = done.pop().result()
        assert refused.status_code == 429
        assert refused.headers["retry-after"]
        assert refused.json()["error"]["type"] == "rate_limit_error"
        running.close()  # type: ignore[attr-defined]
        assert waiting.pop().result(timeout=30).status_code == 200


def _post(node: Running, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{node.url}/v1/completions", json=body, timeout=60)


def test_openai_client_completes_chats_and_streams(shared_node: Running) -> None:
    """The official client works unchanged with the node, errors included."""
    client = openai.OpenAI(base_url=f"{shared_node.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["demo"]
    whole = client.completions.create(
        model="demo", prompt="Once upon a time", max_tokens=20, temperature=0
    )
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 20
    pieces = client.completions.create(
        model="demo", prompt="Once upon a time", max_tokens=20, temperature=0, stream=True
    )
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    turn = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "Hello"}], max_tokens=40
    )
    assert turn.choices[0].message.content
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt="x")
    with pytest.raises(openai.BadRequestError, match="context"):
        client.completions.create(model="demo", prompt="word " * 3000, stream=True)


def test_one_seed_gives_one_text(shared_node: Running) -> None:
    """The same seed gives the same text, streamed or not; another seed gives another text."""
    texts = [
        complete(shared_node, seed=seed, max_tokens=40)["choices"][0]["text"] for seed in (1, 1, 2)
    ]
    streamed = text_of(list(stream(shared_node.url, seed=1, max_tokens=40)))
    assert texts[0] == texts[1] == streamed
    assert texts[0] != texts[2]


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"prompt": 3}, "prompt"),
        ({"max_tokens": 4}, "prompt"),
        ({"prompt": "x", "max_tokens": "many"}, "max_tokens"),
        ({"prompt": "x", "temperature": -1}, "temperature"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
        ({"prompt": "x", "n": 2, "best_of": 3}, "best_of"),
        ({"prompt": "x", "stop": ["a", 1]}, "stop[1]"),
        ({"prompt": "x", "model": "nobody"}, "model"),
    ],
)
def test_bad_field_is_named(shared_node: Running, body: dict[str, Any], parameter: str) -> None:
    """A wrong, missing or unsupported field is named in OpenAI's error object."""
    response = httpx.post(f"{shared_node.url}/v1/completions", json=body)
    assert response.status_code == (404 if parameter == "model" else 400)
    assert response.json()["error"]["param"] == parameter


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'"x"', b"[" * 100_000])
def test_malformed_json_is_400(shared_node: Running, body: bytes) -> None:
    """A body that is not a JSON object is a 400."""
    response = httpx.post(f"{shared_node.url}/v1/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/v1/completions", 405), ("DELETE", "/v1/models", 405)],
)
def test_unknown_route_is_an_error_object(
    shared_node: Running, method: str, path: str, status: int
) -> None:
    """Unknown paths and methods are answered in OpenAI's form."""
    response = httpx.request(method, f"{shared_node.url}{path}")
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_connection_close_closes(shared_node: Running, version: str) -> None:
    """With `Connection: close` the server closes after the response, streamed or not."""
    address = urlsplit(shared_node.url)
    body = b'{"prompt": "Once", "max_tokens": 3, "stream": true}'
    request = (
        f"POST /v1/completions HTTP/{version}\r\nHost: node\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(request)
        received = b""
        while piece := connection.recv(65536):  # ends only when the server closes
            received += piece
    assert b" 200 " in received.splitlines()[0]
    assert b"[DONE]" in received


def test_connection_is_kept_for_the_next_request(shared_node: Running) -> None:
    """Several requests go over one HTTP/1.1 connection."""
    address = urlsplit(shared_node.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    ports = set()
    for _ in range(3):
        connection.request("GET", "/v1/models")
        assert connection.getresponse().read()
        ports.add(connection.sock.getsockname()[1])
    connection.close()
    assert len(ports) == 1


def test_second_exporter_is_refused(pair: Pair) -> None:
    """A second exporter on the socket is refused, and the first is named."""
    with pair.exporter() as exporter:
        done = commands.run("exporter", "--metrics-port=0", *pair.flags)
        assert done.returncode == 1
        assert str(exporter.process.pid) in done.stderr.splitlines()[-1]


def _engine_pid(node: Running) -> int:
    (child,) = psutil.Process(node.process.pid).children()
    return int(child.pid)
