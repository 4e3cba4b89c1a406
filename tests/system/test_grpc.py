"""The node over gRPC as an unmodified grpcio client sees it, on the port of the HTTP API."""

import contextlib
import json
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.grpc_client import Client, ask, chat, connect, pb
from tests.processes import Pair, Running, Samples, scrape, value, wait_for

SERVICE = "distributed_llm.v1.Inference"
GENERATE = f"{SERVICE}/Generate"
STREAM = f"{SERVICE}/GenerateStream"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
"""Statuses of `grpc.health.v1`."""
TYPES = ("proto", "json", "grpc", "grpc-web", "grpc-web+proto", "grpc-web+json", "connect+proto")
ENCODINGS = ("content-encoding", "grpc-encoding", "connect-content-encoding")
TIMEOUTS = ("grpc-timeout", "connect-timeout-ms")
OTHERS = ("GetPeers", "LoadModel", "Nothing", "generate", "%00", "..", "")
ENDS = ("ok", "timeout", "cancelled")
KEY = "sk-a-key-of-a-client"


@pytest.fixture(scope="module")
def client(shared_node: Running) -> Iterator[Client]:
    """A client of the node that serves the demo model."""
    with connect(shared_node.url) as connected:
        yield connected


def refusal(call: Any, *arguments: Any, **options: Any) -> Any:
    """Return the error of a call."""
    with pytest.raises(grpc.RpcError) as caught:
        finish(call, *arguments, **options)
    return caught.value


def finish(call: Any, *arguments: Any, **options: Any) -> Any:
    """Return the last message of a call."""
    answer = call(*arguments, **options)
    return list(answer) if isinstance(answer, Iterator) else answer


def trailers(error: Any) -> dict[str, str]:
    """Return an error's trailing metadata."""
    return dict(error.trailing_metadata())


def text_of(messages: list[Any]) -> str:
    """Return the text of a stream's messages."""
    return "".join(message.text for message in messages)


# Answers.


def test_stream_is_the_whole_answer_in_pieces(client: Client) -> None:
    """A stream has the text and the usage of the whole answer."""
    asked = ask(max_tokens=400, ignore_eos=True)  # few could arrive all at once
    whole = client.inference.Generate(asked)
    *pieces, last = client.inference.GenerateStream(asked)
    assert len(pieces) > 1
    assert text_of(pieces) == whole.text
    assert {message.WhichOneof("part") for message in pieces} == {"text"}
    assert last.WhichOneof("part") == "ending"
    for ending in (whole.ending, last.ending):
        assert ending.model == "demo"
        assert ending.finish_reason == pb.FINISH_REASON_LENGTH
        assert ending.usage.generated_tokens == 400
        assert ending.usage.prompt_tokens == 5


def test_stop_and_seed_do_as_over_http(client: Client, shared_node: Running) -> None:
    """Sampling, seed and stops mean the same in both protocols."""
    wanted = {"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0.9, "top_p": 0.8}
    wanted |= {"top_k": 20, "repetition_penalty": 1.1, "seed": -7, "stop": [".", "!"]}
    ours = client.inference.Generate(pb.GenerateRequest(**wanted))
    theirs = httpx.post(f"{shared_node.url}/v1/completions", json=wanted, timeout=60).json()
    assert ours.text == theirs["choices"][0]["text"]
    assert "." not in ours.text
    assert ours.ending.finish_reason == pb.FINISH_REASON_STOP


def test_chat_is_that_of_http(client: Client, shared_node: Running) -> None:
    """A chat uses the model's own template in both protocols."""
    wanted = chat("Tell me a story about a fox.")
    ours = client.inference.Generate(pb.GenerateRequest(chat=wanted, temperature=0, max_tokens=40))
    messages = [{"role": turn.role, "content": turn.content} for turn in wanted.messages]
    body = {"messages": messages, "temperature": 0, "max_tokens": 40}
    theirs = httpx.post(f"{shared_node.url}/v1/chat/completions", json=body, timeout=60).json()
    assert ours.text == theirs["choices"][0]["message"]["content"]
    assert ours.ending.usage.prompt_tokens == theirs["usage"]["prompt_tokens"]


def test_models_resources_and_peers_are_told(client: Client) -> None:
    """Models, resources and peers are listed over gRPC."""
    (model,) = client.inference.ListModels(pb.ListModelsRequest()).models
    assert (model.id, model.state, model.architecture) == ("demo", pb.MODEL_STATE_READY, "llama")
    assert model.context_length > 0
    resources = client.inference.GetResources(pb.GetResourcesRequest())
    assert resources.node_id == "node1"
    assert resources.state == "online"
    assert resources.used_layers == model.layers
    assert resources.cpu_cores > 0
    assert 0 < resources.used_memory_bytes < resources.memory_bytes
    assert not client.inference.GetPeers(pb.GetPeersRequest()).peers


@pytest.mark.slow
def test_model_is_unloaded_and_loaded_while_serving(pair: Pair) -> None:
    """An unloaded model frees its memory and answers no request until it is loaded again."""
    with pair.node() as node, connect(node.url) as client:
        call = client.inference
        for _ in range(2):
            unloaded = call.UnloadModel(pb.UnloadModelRequest(model="demo")).model
            assert unloaded.state == pb.MODEL_STATE_UNLOADED
            assert not psutil.Process(node.process.pid).children()
            refused = refusal(call.Generate, ask())
            assert refused.code() is grpc.StatusCode.UNAVAILABLE
            assert trailers(refused)["error-code"] == "model_unloaded"
            loaded = call.LoadModel(pb.LoadModelRequest(model="demo")).model
            assert loaded.state == pb.MODEL_STATE_READY
            assert call.Generate(ask()).text
        for method, request in [
            (call.LoadModel, pb.LoadModelRequest(model="other")),
            (call.UnloadModel, pb.UnloadModelRequest()),
        ]:
            assert refusal(method, request).code() is grpc.StatusCode.NOT_FOUND


def test_channel_is_kept_for_any_number_of_calls(shared_node: Running) -> None:
    """A channel works for any number of calls."""
    with connect(shared_node.url) as fresh:
        for _ in range(1100):  # hypercorn's own limit is 1000
            fresh.inference.ListModels(pb.ListModelsRequest())


# Errors.


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": 2**32 - 1}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**32 - 1}, "max_tokens"),
        ({"repetition_penalty": 3}, "repetition_penalty"),
        ({"stop": [str(number) for number in range(65)]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"prompt": "a\0b"}, "NUL"),
        ({"prompt": None}, "prompt"),
        ({"prompt": None, "chat": chat()}, "messages"),
    ],
)
def test_bad_field_is_named(client: Client, fields: dict[str, Any], says: str) -> None:
    """The limits of the HTTP API apply, and the error names the field."""
    for call in (client.inference.Generate, client.inference.GenerateStream):
        error = refusal(call, ask(**fields))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert says in error.details()


def test_unknown_model_and_long_prompt_have_their_codes(client: Client) -> None:
    """Errors that a program must distinguish differ in their code or in `error-code`."""
    unknown = refusal(client.inference.Generate, ask(model="other"))
    assert unknown.code() is grpc.StatusCode.NOT_FOUND
    assert trailers(unknown)["error-code"] == "model_not_found"
    long = refusal(client.inference.GenerateStream, ask(prompt="word " * 3000))
    assert long.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert trailers(long)["error-code"] == "context_length_exceeded"


def test_unknown_method_is_unimplemented(client: Client) -> None:
    """An unknown method or service is UNIMPLEMENTED with its name."""
    for path in (f"/{SERVICE}/GenerateTwice", "/distributed_llm.v2.Inference/Generate"):
        call = client.channel.unary_unary(path, bytes, bytes)
        assert refusal(call, b"").code() is grpc.StatusCode.UNIMPLEMENTED


def test_garbage_is_an_error_of_the_protocol(client: Client, shared_node: Running) -> None:
    """Bytes that are not a message, and malformed metadata, cause no traceback."""
    call = client.channel.unary_unary(f"/{GENERATE}", bytes, bytes)
    assert refusal(call, b"\xff\xff").code() is grpc.StatusCode.INVALID_ARGUMENT
    url = f"{shared_node.url}/{GENERATE}"
    json_type = (b"content-type", b"application/json")
    faults: list[tuple[list[tuple[bytes, bytes]], int]] = [
        ([], 415),
        ([(b"content-type", b"text/plain")], 415),
        ([(b"content-type", b"application/grpc")], 426),
        ([json_type, (b"x-name", b"\xff")], 400),
        ([json_type, (b"connect-timeout-ms", b"-5")], 400),
        ([json_type], 400),
    ]
    for headers, status in faults:
        assert httpx.post(url, headers=headers, content=b"{").status_code == status
    assert httpx.get(url).status_code == 405
    assert "Traceback" not in shared_node.log.read_text()


def test_fuzzed_calls_end_in_a_refusal(shared_node: Running) -> None:
    """Any bytes, types, encodings and paths get an answer without a fault of the node."""
    random = Random(5)
    whole = ask(max_tokens=1).SerializeToString()
    codes = []
    with httpx.Client(base_url=shared_node.url, timeout=20) as http:
        for _ in range(300):
            body = bytearray(random.choice([whole, _frame(whole), b'{"prompt": "x"}', b"\x1f\x8b"]))
            for _ in range(random.randint(1, 4)):
                body[random.randrange(len(body))] = random.randrange(256)
            headers = {
                "content-type": f"application/{random.choice(TYPES)}",
                random.choice(ENCODINGS): random.choice(["gzip", "identity", "nonsense", ""]),
                random.choice(TIMEOUTS): random.choice(["5S", "1H", "-1", "x", "999999999999S"]),
            }
            path = random.choice([GENERATE, STREAM, f"{SERVICE}/{random.choice(OTHERS)}"])
            codes.append(http.post(f"/{path}", content=bytes(body), headers=headers).status_code)
    assert set(codes) <= {200, 400, 404, 405, 415, 426, 429, 501, 504}, set(codes)
    assert len(set(codes)) > 3
    assert "Traceback" not in shared_node.log.read_text()


@pytest.mark.slow
def test_full_queue_says_when_to_come_again(pair: Pair, slow_model: Path) -> None:
    """A full queue is RESOURCE_EXHAUSTED with `retry-after`."""
    with pair.node(f"--model={slow_model}", "--queue=1") as node, connect(node.url) as client:
        running = client.inference.GenerateStream(ask(max_tokens=1500))
        next(running)
        (engine,) = psutil.Process(node.process.pid).children()
        engine.suspend()
        with ThreadPoolExecutor(2) as threads:
            asked = [
                threads.submit(refusal, client.inference.Generate, ask(), timeout=5)
                for _ in range(2)
            ]
            ends = [answer.result() for answer in asked]
        engine.resume()
        codes = {end.code(): end for end in ends}
        assert set(codes) == {
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        }
        full = trailers(codes[grpc.StatusCode.RESOURCE_EXHAUSTED])
        assert full["error-code"] == "queue_full"
        assert float(full["retry-after"]) > 0
        running.cancel()


# Ends that the client makes.


def test_cancelled_calls_free_the_engine(pair: Pair, slow_model: Path) -> None:
    """A cancel stops the engine, for streams, whole answers and queued calls."""
    with (
        pair.exporter() as exporter,
        pair.node(f"--model={slow_model}") as node,
        connect(node.url) as client,
    ):
        call = client.inference
        running = call.GenerateStream(ask(max_tokens=1500))
        next(running)
        queued = [call.Generate.future(ask(max_tokens=1500)), call.GenerateStream(ask())]
        wait_for(lambda: _level(exporter, "inference_queue_depth") == 2)
        for waiting in queued:
            waiting.cancel()
        wait_for(lambda: _level(exporter, "inference_queue_depth") == 0)
        assert _level(exporter, "inference_requests_in_flight") == 1
        running.cancel()
        wait_for(lambda: _level(exporter, "inference_requests_in_flight") == 0)

        whole = call.Generate.future(ask(max_tokens=1500))
        wait_for(lambda: _level(exporter, "inference_slots", state="busy") == 1)
        whole.cancel()
        assert call.Generate(ask(max_tokens=1), timeout=10).text
        samples = wait_for(lambda: _counted(exporter, 5))
        assert value(samples, "inference_requests_total", status="cancelled") == 4
        assert value(samples, "rpc_requests_total", method=GENERATE, code="cancelled") == 2
        assert value(samples, "rpc_requests_total", method=STREAM, code="cancelled") == 2
        assert (value(samples, "inference_tokens_generated_total") or 0) < 1500


@pytest.mark.slow
def test_deadline_stops_the_engine(pair: Pair, slow_model: Path) -> None:
    """A call past its deadline gets and counts DEADLINE_EXCEEDED, and the engine is free."""
    with (
        pair.exporter() as exporter,
        pair.node(f"--model={slow_model}") as node,
        connect(node.url) as client,
    ):
        assert client.inference.Generate(ask(max_tokens=1)).text
        for call in (client.inference.Generate, client.inference.GenerateStream):
            error = refusal(call, ask(max_tokens=1900), timeout=1)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        waited = httpx.post(
            f"{node.url}/{GENERATE}",
            json={"prompt": "Once", "maxTokens": 1900},
            headers={"Connect-Timeout-Ms": "1000"},
        )
        assert waited.json()["code"] == "deadline_exceeded"
        assert client.inference.Generate(ask(max_tokens=1)).text
        samples = wait_for(lambda: _counted(exporter, 5))
        ok, timeout, cancelled = (
            value(samples, "inference_requests_total", status=status) or 0 for status in ENDS
        )
        # grpcio gives up a call by its own clock. If it does so long before the node's clock, as on
        # a busy machine, the call counts as cancelled.
        assert (ok, timeout + cancelled) == (2, 3)
        assert timeout >= 1
        late = [
            value(samples, "rpc_requests_total", code=code) or 0
            for code in ("deadline_exceeded", "cancelled")
        ]
        assert late == [timeout, cancelled]
        assert value(samples, "rpc_requests_total", code="ok") == 2
        wait_for(lambda: _level(exporter, "inference_requests_in_flight") == 0)
        latency = value(samples, "rpc_latency_seconds_sum", code="deadline_exceeded") or 0
        assert latency > 0.9 * timeout


def _level(exporter: Running, name: str, **labels: str) -> float | None:
    return value(scrape(exporter.url), name, **labels)


def _counted(exporter: Running, calls: int) -> Samples | None:
    """Return the samples once this many calls are counted, and with them all earlier calls."""
    samples = scrape(exporter.url)
    return samples if value(samples, "rpc_requests_total") == calls else None


@pytest.mark.slow
def test_clients_that_leave_early_leave_nothing(pair: Pair, slow_model: Path) -> None:
    """When half of 60 clients leave at once, each end is counted and no task remains."""
    random = Random(3)
    with (
        pair.exporter() as exporter,
        pair.node(f"--model={slow_model}", "--queue=16") as node,
        connect(node.url) as client,
    ):
        client.inference.Generate(ask(max_tokens=1))
        tasks = wait_for(lambda: _tasks_at_rest(scrape(exporter.url)))
        with ThreadPoolExecutor(60) as threads:
            leaving = [random.random() * 2 if number % 2 else None for number in range(60)]
            ends = list(threads.map(lambda seconds: _call_or_leave(client, seconds), leaving))
        assert {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED} <= set(ends)
        stayed = [end for end, seconds in zip(ends, leaving, strict=True) if seconds is None]
        samples = wait_for(lambda: _all_counted(exporter, stayed))
        assert grpc.StatusCode.CANCELLED not in stayed
        # Some clients left before the node had read their request.
        assert _calls(samples, grpc.StatusCode.CANCELLED) > 0
        method = "distributed_llm.v1.Inference/GenerateStream"
        calls = value(samples, "rpc_requests_total", method=method) or 0
        assert len(stayed) < calls <= len(ends)
        # The exporter's probes come and go; a leak of the calls would be 60 tasks.
        wait_for(lambda: (_level(exporter, "system_goroutines") or 0) < tasks + 10)


def _tasks_at_rest(samples: Samples) -> float | None:
    """Return the tasks of a node that has started: the first samples are from before."""
    started = (value(samples, "node_uptime_seconds") or 0) > 3
    return value(samples, "system_goroutines") if started else None


def _all_counted(exporter: Running, stayed: list[grpc.StatusCode]) -> Samples | None:
    """Return the samples once nothing is in progress and each client that stayed is counted."""
    samples = scrape(exporter.url)
    told = all(_calls(samples, code) >= stayed.count(code) for code in set(stayed))
    return samples if told and value(samples, "inference_requests_in_flight") == 0 else None


def _calls(samples: Samples, code: grpc.StatusCode) -> float:
    return value(samples, "rpc_requests_total", code=code.name.lower()) or 0


def _call_or_leave(client: Client, seconds: float | None) -> grpc.StatusCode:
    """Read a stream to its end, or leave a long one; return its code."""
    tokens = 4 if seconds is None else 400
    call = client.inference.GenerateStream(ask(max_tokens=tokens))
    timer = threading.Timer(seconds or 0, call.cancel)
    if seconds is not None:
        timer.start()
    with contextlib.suppress(grpc.RpcError):
        list(call)
    timer.cancel()
    return call.code()


# Health, reflection, keys, ids.


def test_health_of_each_service(client: Client) -> None:
    """The node and its service are SERVING; another service is unknown."""
    for service in ("", SERVICE):
        request = health_pb2.HealthCheckRequest(service=service)
        assert client.health.Check(request).status == SERVING
    other = health_pb2.HealthCheckRequest(service="other")
    assert refusal(client.health.Check, other).code() is grpc.StatusCode.NOT_FOUND
    watch = client.health.Watch(other)
    assert next(watch).status == SERVICE_UNKNOWN
    watch.cancel()


@pytest.mark.slow
def test_watch_sees_a_drain_to_its_end(pair: Pair, slow_model: Path) -> None:
    """Watch: SERVING, NOT_SERVING from the signal on, and an end when the node stops."""
    with pair.node(f"--model={slow_model}") as node, connect(node.url) as client:
        watch = client.health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert next(watch).status == SERVING
        running = client.inference.GenerateStream(ask(max_tokens=150))
        next(running)
        (engine,) = psutil.Process(node.process.pid).children()
        engine.suspend()
        node.process.terminate()
        assert next(watch).status == NOT_SERVING
        refused = refusal(client.inference.Generate, ask())
        engine.resume()
        assert refused.code() is grpc.StatusCode.UNAVAILABLE
        assert trailers(refused)["retry-after"]
        *_, last = running
        assert last.ending.usage.generated_tokens == 150
        assert refusal(next, watch).code() is grpc.StatusCode.UNAVAILABLE
        assert node.process.wait(timeout=20) == 0
        assert "Traceback" not in node.log.read_text()


@pytest.mark.slow
def test_drain_ends_a_stream_with_its_reason(pair: Pair, slow_model: Path) -> None:
    """A stream longer than the grace ends with UNAVAILABLE."""
    with (
        pair.node(f"--model={slow_model}", "--drain-seconds=0.5") as node,
        connect(node.url) as client,
    ):
        running = client.inference.GenerateStream(ask(max_tokens=1900))
        next(running)
        node.process.terminate()
        cut = refusal(list, running)
        assert cut.code() is grpc.StatusCode.UNAVAILABLE
        assert trailers(cut)["error-code"] == "stopped"
        assert node.process.wait(timeout=20) == 0


@pytest.mark.slow
def test_watch_sees_an_engine_die_and_come_back(
    pair: Pair, slow_model: Path, tmp_path: Path
) -> None:
    """Health is NOT_SERVING while the engine is down, as in `/health`."""
    model = tmp_path / "model.gguf"
    model.hardlink_to(slow_model)
    with pair.node(f"--model={model}") as node, connect(node.url) as client:
        watch = client.health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        (engine,) = psutil.Process(node.process.pid).children()
        model.unlink()
        engine.kill()
        assert next(watch).status == NOT_SERVING
        model.hardlink_to(slow_model)
        assert next(watch).status == SERVING
        watch.cancel()


def test_reflection_lists_what_is_served(client: Client) -> None:
    """Reflection lists services and methods, in both versions."""
    database = ProtoReflectionDescriptorDatabase(client.channel)
    assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
    file = database.FindFileContainingSymbol(SERVICE)
    assert "GenerateStream" in {method.name for method in file.service[0].method}
    call = client.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = call(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    assert SERVICE in {service.name for service in answer.list_services_response.service}


@pytest.mark.slow
def test_key_is_asked_for_in_every_protocol(pair: Pair, tmp_path: Path) -> None:
    """Calls without a key are UNAUTHENTICATED; health needs none."""
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    with (
        pair.exporter() as exporter,
        pair.node(f"--api-key-file={keys}") as node,
        connect(node.url) as client,
    ):
        with_key = [("authorization", f"Bearer {KEY}")]
        for call, request in [
            (client.inference.Generate, ask()),
            (client.inference.GenerateStream, ask()),
            (client.inference.GetResources, pb.GetResourcesRequest()),
        ]:
            for metadata in ([], [("authorization", "Bearer wrong")]):
                error = refusal(call, request, metadata=metadata)
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED
                assert "key" in error.details()
            finish(call, request, metadata=with_key)
        reflection = ProtoReflectionDescriptorDatabase(client.channel)
        assert refusal(reflection.get_services).code() is grpc.StatusCode.UNAUTHENTICATED
        assert client.health.Check(health_pb2.HealthCheckRequest()).status == SERVING
        # A request that only resembles a call needs the key, too.
        for path in (f"/{SERVICE}/a/b", f"/{SERVICE}/../v1/models", f"/{SERVICE}/", "/v1/models"):
            assert httpx.get(node.url + path).status_code in (401, 404)
        connect_json = httpx.post(f"{node.url}/{GENERATE}", json={"prompt": "x"})
        assert connect_json.status_code == 401
        assert connect_json.json()["code"] == "unauthenticated"
        samples = wait_for(lambda: _counted(exporter, 12))
        assert value(samples, "rpc_requests_total", code="unauthenticated") == 8
        assert value(samples, "inference_requests_total", status="ok") == 2
        assert KEY not in node.log.read_text() + httpx.get(f"{exporter.url}/metrics").text


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1.x", True), ("", False), ("two words", False), ("x" * 65, False)]
)
def test_request_id_goes_in_and_out(client: Client, given: str, *, kept: bool) -> None:
    """A valid request id is returned; otherwise one is generated, for refusals too."""
    metadata = [("x-request-id", given)] if given else []
    _, call = client.inference.Generate.with_call(ask(max_tokens=1), metadata=metadata)
    refused = refusal(client.inference.Generate, ask(model="other"), metadata=metadata)
    for told in (call.initial_metadata(), refused.initial_metadata()):
        identity = dict(told)["x-request-id"]
        assert (identity == given) is kept
        assert identity


# What is counted.


@pytest.mark.slow
def test_calls_are_counted_as_calls_alone(pair: Pair) -> None:
    """Each call counts once in `rpc_requests_total`, with its id as exemplar, and not as HTTP."""
    with pair.exporter() as exporter, pair.node() as node, connect(node.url) as client:
        client.inference.Generate(ask(), metadata=[("x-request-id", "of-this-call")])
        wait_for(lambda: 'request_id="of-this-call"' in _open_metrics(exporter))
        list(client.inference.GenerateStream(ask()))
        refusal(client.inference.Generate, ask(model="other"))
        httpx.post(f"{node.url}/{GENERATE}", json={"prompt": "x", "maxTokens": 1})
        httpx.post(f"{node.url}/{GENERATE}", content=b"no call")  # without a type
        refusal(client.channel.unary_unary(f"/{SERVICE}/NoSuch", bytes, bytes), b"")
        route = f"/{SERVICE}"
        wait_for(lambda: _level(exporter, "http_requests_total", route=route) == 2)
        samples = wait_for(lambda: _counted(exporter, 4))
        assert value(samples, "rpc_requests_total", method=GENERATE, code="ok") == 2
        assert value(samples, "rpc_requests_total", method=STREAM, code="ok") == 1
        assert value(samples, "rpc_requests_total", method=GENERATE, code="not_found") == 1
        assert value(samples, "rpc_latency_seconds_count", method=GENERATE) == 3
        assert value(samples, "http_requests_total", route=route, status="415") == 1
        assert value(samples, "http_requests_total", route=route, status="404") == 1
        assert value(samples, "http_requests_total", route="unknown") in (None, 0)


def _open_metrics(exporter: Running) -> str:
    headers = {"Accept": "application/openmetrics-text"}
    return httpx.get(f"{exporter.url}/metrics", headers=headers).text


# The other protocols of the same services.


def test_connect_is_json_for_curl(shared_node: Running) -> None:
    """Connect takes and returns plain JSON; an error is a status with a JSON object."""
    url = f"{shared_node.url}/{GENERATE}"
    asked = {"prompt": "Once upon a time", "maxTokens": 5, "temperature": 0}
    answer = httpx.post(url, json=asked, timeout=60).json()
    assert answer["text"]
    assert answer["ending"]["usage"]["generatedTokens"] == 5
    refused = httpx.post(url, json=asked | {"topP": 7})
    assert refused.status_code == 400
    assert refused.json()["code"] == "invalid_argument"
    assert "top_p" in refused.json()["message"]
    unknown = httpx.post(url, json=asked | {"topPee": 7})
    assert unknown.status_code == 400
    models = httpx.post(f"{shared_node.url}/{SERVICE}/ListModels", json={}).json()["models"]
    assert models[0]["id"] == "demo"


def test_grpc_web_streams_over_http_1(client: Client, shared_node: Running) -> None:
    """gRPC-Web has the same messages, with the status in a last frame of the body."""
    message = ask().SerializeToString()
    headers = {"content-type": "application/grpc-web+proto"}
    response = httpx.post(
        f"{shared_node.url}/{STREAM}", content=_frame(message), headers=headers, timeout=60
    )
    *frames, (flag, status) = _frames(response.content)
    messages = [pb.GenerateStreamResponse.FromString(content) for _, content in frames]
    assert text_of(messages) == client.inference.Generate(ask()).text
    assert messages[-1].ending.usage.generated_tokens == 8
    assert flag == 0x80
    assert b"grpc-status: 0" in status


def test_connect_streams_json(client: Client, shared_node: Running) -> None:
    """Connect's streams have one JSON frame a message, and the end as another frame."""
    body = _frame(json.dumps({"prompt": "Once upon a time", "maxTokens": 8, "temperature": 0}))
    headers = {"content-type": "application/connect+json"}
    response = httpx.post(f"{shared_node.url}/{STREAM}", content=body, headers=headers, timeout=60)
    *frames, (flag, end) = _frames(response.content)
    text = "".join(json.loads(content).get("text", "") for _, content in frames)
    assert text == client.inference.Generate(ask()).text
    assert (flag, json.loads(end)) == (2, {})


def _frame(content: bytes | str) -> bytes:
    encoded = content.encode() if isinstance(content, str) else content
    return struct.pack(">BI", 0, len(encoded)) + encoded


def _frames(body: bytes) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    while body:
        flag, length = struct.unpack_from(">BI", body)
        found.append((flag, body[5 : 5 + length]))
        body = body[5 + length :]
    return found
