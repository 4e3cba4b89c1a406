"""A node in front of servers that others run: a real llama-server, and one that fails and lies."""

import contextlib
import json
import os
import signal
import subprocess
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.llama_servers import COMPILED
from tests.patience import patient
from tests.processes import (
    Pair,
    Running,
    free_port,
    scrape,
    stream,
    text_of,
    value,
    wait_for,
)
from tests.random_models import random_model
from tests.real_model import real_model
from tests.upstreams import Act, Close, Refuse, Say, Upstream, serving

pytestmark = pytest.mark.slow

KEY: Final = "sk-the-key-that-nobody-may-see"
SECRET: Final = "the secret of the mesh that a test made"
HELLO: Final = [{"role": "user", "content": "hello"}]
SCHEMA: Final = {
    "type": "object",
    "properties": {"a": {"enum": [1, 2]}},
    "required": ["a"],
    "additionalProperties": False,
}
TEMPLATE: Final = """{% for tool in tools or [] %}<tools>{{ tool | tojson }}</tools>
{% endfor %}For each function call, return a json object within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>
{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.content %}{{ message.content }}{% endif %}{% if message.tool_calls %}\
{% for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""Asks for calls as Hermes and Qwen write them."""
WEATHER: Final = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Paris"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
CALL: Final = {"name": "weather", "arguments": '{"city": "Rome"}'}
EXAMPLE: Final = [
    {"role": "user", "content": "Weather in Rome?"},
    {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": CALL}]},
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    {"role": "assistant", "content": "It is sunny."},
]


def ask(node: Running, path: str = "/v1/chat/completions", **body: Any) -> httpx.Response:
    """Send a request, by default a chat."""
    asked = {"messages": HELLO} if path.endswith("chat/completions") else {}
    return httpx.post(f"{node.url}{path}", json=asked | body, timeout=patient(60))


def content(answer: httpx.Response) -> str:
    """Return what a chat's answer says."""
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def is_ready(node: Running) -> bool:
    """Return whether the node serves its models."""
    return httpx.get(f"{node.url}/health").status_code == 200


def count(exporter: Running, name: str, **labels: str) -> float:
    """Return a number of the exporter; 0 without a series."""
    return value(scrape(exporter.url), name, **labels) or 0


# With a real llama-server.


@contextlib.contextmanager
def llama_server(name: str, model: Path, directory: Path, *flags: str) -> Iterator[str]:
    """Run a llama-server that others could run, and yield its URL."""
    port = free_port()
    named = {"model": model, "alias": name, "api-key": KEY, "port": port}
    fixed = {"host": "127.0.0.1", "threads": 1, "ctx-size": 2048, "parallel": 2}
    pairs = [(f"--{flag}", str(text)) for flag, text in (named | fixed).items()]
    command = [str(COMPILED), *(text for pair in pairs for text in pair), *flags]
    with (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        with process:
            try:
                yield f"http://127.0.0.1:{port}/v1"
            finally:
                process.kill()


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with the servers' key."""
    file = tmp_path_factory.mktemp("keys") / "key"
    file.write_text(f"{KEY}\n")
    return file


@pytest.fixture(scope="module")
def real(
    tmp_path_factory: pytest.TempPathFactory, key_file: Path
) -> Iterator[tuple[Running, Running, str]]:
    """Yield a node in front of two llama-servers, its exporter, and the URL of the first."""
    if not COMPILED.exists():
        pytest.skip("no llama-server is compiled: run `just llama-server`")
    directory = tmp_path_factory.mktemp("real")
    pair = Pair(directory)
    with contextlib.ExitStack() as stack:
        texts, vectors = (
            stack.enter_context(llama_server(name, random_model(name), directory, *flags))
            for name, flags in (("qwen3", ()), ("embedder", ("--embeddings",)))
        )
        exporter = stack.enter_context(pair.exporter())
        node = stack.enter_context(
            pair.node(
                f"--model={texts}#qwen3,key-file={key_file},slots=2,"
                f"vectors={vectors}#embedder,key-file={key_file}",
            )
        )
        wait_for(lambda: is_ready(node), 60)
        yield node, exporter, texts


def test_answers_are_those_of_the_server(real: tuple[Running, Running, str]) -> None:
    """Chats and completions, whole and streamed, are the server's own, token for token."""
    node, _, url = real
    headers = {"Authorization": f"Bearer {KEY}"}
    asked: dict[str, Any] = {"model": "qwen3", "max_tokens": 12, "temperature": 0}
    body = asked | {"messages": HELLO}
    direct = httpx.post(f"{url}/chat/completions", json=body, headers=headers, timeout=60)
    assert content(ask(node, **asked)) == content(direct)
    prompt = {"prompt": "Once upon a time"}
    alone = httpx.post(f"{url}/completions", json=asked | prompt, headers=headers, timeout=60)
    text = alone.json()["choices"][0]["text"]
    through = ask(node, "/v1/completions", **asked, **prompt).json()
    assert through["choices"][0]["text"] == text
    assert through["choices"][0]["finish_reason"] == "length"
    for field in ("prompt_tokens", "completion_tokens"):
        assert through["usage"][field] == alone.json()["usage"][field]
    assert text_of(list(stream(node.url, **asked))) == text


def test_structured_answers_and_vectors_pass_through(
    real: tuple[Running, Running, str],
) -> None:
    """The server keeps an answer to its schema, counts tokens and makes vectors."""
    node, _, _ = real
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    answer = ask(node, model="qwen3", response_format=schema, seed=5)
    assert json.loads(content(answer)) in ({"a": 1}, {"a": 2})
    shown = ask(node, "/tokenize", model="qwen3", prompt="hello").json()
    assert ask(node, "/detokenize", model="qwen3", tokens=shown["tokens"]).json()["content"]
    vectors = ask(node, "/v1/embeddings", model="vectors", input=["hello", "hello"]).json()
    first, second = (one["embedding"] for one in vectors["data"])
    assert first == pytest.approx(second, abs=1e-4)
    assert vectors["usage"]["prompt_tokens"] > 0
    refused = ask(node, "/v1/embeddings", model="qwen3", input="hello")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_by_engine")
    assert "has no /embeddings" in refused.json()["error"]["message"]


def test_calls_are_those_of_the_server(tmp_path: Path, key_file: Path) -> None:
    """A llama-server reads its model's calls, which reach the client whole and streamed."""
    model = real_model()
    template = tmp_path / "template.jinja"
    template.write_text(TEMPLATE)
    flags = ("--jinja", "--chat-template-file", str(template))
    with llama_server("gemma", model, tmp_path, *flags) as url:
        named = f"--model={url}#gemma,key-file={key_file}"
        with Pair(tmp_path).node(named) as node:
            wait_for(lambda: is_ready(node), 60)
            asked: dict[str, Any] = {
                "messages": [*EXAMPLE, *EXAMPLE, EXAMPLE[0]],
                "tools": [{"type": "function", "function": WEATHER}],
                "tool_choice": {"type": "function", "function": {"name": "weather"}},
                "temperature": 0,
                "max_tokens": 30,
            }
            message = ask(node, **asked).json()["choices"][0]["message"]
            streamed = ask(node, **asked, stream=True).text
    called = message["tool_calls"][0]["function"]
    assert (called["name"], json.loads(called["arguments"])) == ("weather", {"city": "Rome"})
    assert not message["content"]
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line[:7] == "data: {"]
    deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert calls[0]["function"]["name"] == "weather"
    first = [call["function"].get("arguments", "") for call in calls if call["index"] == 0]
    assert json.loads("".join(first)) == {"city": "Rome"}


def test_metrics_show_an_upstream_and_nothing_invented(
    real: tuple[Running, Running, str],
) -> None:
    """Requests and tokens are counted as ever; what the node cannot see has no series."""
    node, exporter, _ = real
    before = count(exporter, "inference_tokens_generated_total", model_id="qwen3")
    usage = ask(node, model="qwen3", max_tokens=7).json()["usage"]
    after = before + usage["completion_tokens"]
    wait_for(lambda: count(exporter, "inference_tokens_generated_total", model_id="qwen3") == after)
    samples = scrape(exporter.url)
    assert value(samples, "model_info", model_id="qwen3", engine="upstream") == 1
    assert value(samples, "inference_slots", model_id="qwen3", state="total") == 2
    assert value(samples, "inference_slots", model_id="vectors", state="total") == 8
    for name in (
        "model_size_bytes",
        "layers_allocated",
        "engine_memory_bytes",
        "engine_context_tokens",
    ):
        assert value(samples, name, model_id="qwen3") is None, name
    assert value(samples, "engine_sequences_count", model_id="qwen3") == 0


# With a server that fails and lies.


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A server that answers in full unless the test says otherwise."""
    with serving(key=KEY, shows_models=True) as server:
        yield server


@pytest.fixture
def front(tmp_path: Path, upstream: Upstream, key_file: Path) -> Iterator[tuple[Running, Running]]:
    """Yield a node in front of the server, and its exporter."""
    pair = Pair(tmp_path)
    model = f"--model=big={upstream.url}#big,key-file={key_file}"
    with pair.exporter() as exporter, pair.node(model, "--stall-seconds=2") as node:
        wait_for(lambda: is_ready(node))
        yield node, exporter


@pytest.mark.parametrize(
    ("acts", "resumed"),
    [
        ((Refuse(500), Refuse(502)), 2),
        ((Close(), Say((), raw=b"data: {broken\n\n", finish=None)), 2),
        ((Say(("Hello",), finish=None, done=False, cut=True),), 1),
        ((Say(("Hello",), raw=b"data: {broken\n\n"),), 1),
        ((Refuse(429), Refuse(503), Refuse(429)), 0),
    ],
)
def test_faults_of_the_server_are_not_the_clients(
    front: tuple[Running, Running], upstream: Upstream, acts: tuple[Act, ...], resumed: int
) -> None:
    """Errors and broken streams are tried again; what was said stays, and the rest follows."""
    node, exporter = front
    said_before = any(isinstance(act, Say) and act.pieces for act in acts)
    if said_before:
        upstream.default = Say((", ", "world"))
    upstream.acts = deque(acts)
    assert content(ask(node)) == "Hello, world"
    if said_before:
        last = upstream.requests()[-1]["messages"][-1]
        assert last == {"role": "assistant", "content": "Hello"}
    wait_for(lambda: count(exporter, "inference_requests_total", status="ok") == 1)
    assert count(exporter, "inference_resumed_total", model_id="big") == resumed
    assert count(exporter, "inference_tokens_generated_total", model_id="big") == 3
    assert count(exporter, "telemetry_events_lost") == 0


def test_hanging_stream_is_given_up_and_continued(
    front: tuple[Running, Running], upstream: Upstream
) -> None:
    """Keep-alive comments are no progress: the answer goes on with another request."""
    node, exporter = front
    upstream.acts = deque([Say(("Hello",), hang=True)])
    upstream.default = Say((", ", "world"))
    assert content(ask(node)) == "Hello, world"
    labels = {"model_id": "big", "reason": "stalled"}
    wait_for(lambda: count(exporter, "inference_resumed_total", **labels) == 1)
    assert is_ready(node)


def test_answer_that_cannot_go_on_ends_with_an_error(
    front: tuple[Running, Running], upstream: Upstream
) -> None:
    """A stream with thoughts that is cut ends with an error event, never as if it were whole."""
    node, exporter = front
    upstream.acts = deque([Say(({"reasoning": "hm"},), finish=None, done=False)])
    body = {"messages": HELLO, "stream": True}
    answer = httpx.post(f"{node.url}/v1/chat/completions", json=body, timeout=patient(60)).text
    assert '"reasoning_content":"hm"' in answer
    assert "cannot be continued" in answer
    assert "engine_failed" in answer
    assert '"finish_reason":"stop"' not in answer
    wait_for(lambda: count(exporter, "inference_requests_total", status="error") == 1)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -5, "completion_tokens": -5},
        {"prompt_tokens": 10**15, "completion_tokens": 10**15},
        {"prompt_tokens": "many", "completion_tokens": [1]},
    ],
)
def test_lies_about_usage_are_not_counted(
    front: tuple[Running, Running], upstream: Upstream, usage: Any
) -> None:
    """Counts that cannot be true are replaced by what was seen."""
    node, exporter = front
    upstream.default = Say(usage=usage)
    told = ask(node).json()["usage"]
    assert (told["prompt_tokens"], told["completion_tokens"]) == (0, 3)
    name = "inference_tokens_generated_total"
    wait_for(lambda: count(exporter, name, model_id="big") == 3)
    assert count(exporter, "inference_prompt_tokens_total", model_id="big") == 0
    assert all(number >= 0 for number in scrape(exporter.url).values())


def test_refused_key_is_the_operators_fault(
    front: tuple[Running, Running], upstream: Upstream, key_file: Path
) -> None:
    """The caller gets 503, health says which file to look at, and a new key ends it."""
    node, exporter = front
    upstream.key = "another"
    answer = ask(node)
    assert answer.status_code == 503
    assert f"it refuses the key in {key_file}" in answer.json()["error"]["message"]
    ready = f"{exporter.url}/readyz"
    wait_for(lambda: "it refuses the key in" in httpx.get(ready).text)
    assert httpx.get(ready).status_code == 503
    upstream.key = KEY
    wait_for(lambda: is_ready(node), 60)
    assert content(ask(node)) == "Hello, world"
    shown = httpx.get(f"{exporter.url}/metrics").text + node.log.read_text()
    assert KEY not in shown


def test_server_that_stops_and_starts_is_waited_for(
    front: tuple[Running, Running], upstream: Upstream
) -> None:
    """A stream outlives a restart; while the server is away, health says so and since when."""
    node, exporter = front
    upstream.acts = deque([Say(("Hello",), hang=True)])
    upstream.default = Say((", ", "world"))
    said, restarted = "", False
    body = {"messages": HELLO, "stream": True}
    url = f"{node.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=patient(60)) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                said += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
            if said == "Hello" and not restarted:
                restarted = True
                upstream.stop()
                wait_for(lambda: not is_ready(node))
                reason = wait_for(lambda: _faults(node).get("big"), 30)
                assert "cannot be used" in reason
                assert "(since 20" in reason
                upstream.start()
    assert said == "Hello, world"
    wait_for(lambda: is_ready(node), 60)
    assert count(exporter, "telemetry_events_lost") == 0


def _faults(node: Running) -> dict[str, str]:
    faults: dict[str, str] = httpx.get(f"{node.url}/health").json().get("faults", {})
    return faults


def test_node_starts_before_its_server(tmp_path: Path) -> None:
    """A server that is not there yet is no reason to end: the node waits and says why."""
    server = Upstream(port=free_port())
    pair = Pair(tmp_path)
    with pair.node(f"--model=big={server.url}#big") as node:
        wait_for(lambda: "cannot be used" in _faults(node).get("big", ""))
        assert ask(node).status_code == 503
        server.start()
        try:
            wait_for(lambda: is_ready(node), 60)
            assert content(ask(node)) == "Hello, world"
        finally:
            server.stop()


def test_wrong_key_file_ends_the_start(tmp_path: Path) -> None:
    """What no retry can mend is an error at the start."""
    command = ["python", "-m", "node", f"--runtime-dir={tmp_path}", f"--state-dir={tmp_path}"]
    command += ["--api-port=0", "--mesh-port=0"]
    for model, fault in (
        (f"big=https://host/v1#m,key-file={tmp_path}/none", "No such file"),
        ("big=http://host/v1#m,key-file=/k", "could be read on the network"),
    ):
        done = subprocess.run(
            [*command, f"--model={model}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert fault in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("act", ["refuse", "stop"])
def test_another_node_answers_instead(tmp_path: Path, act: str) -> None:
    """If one node's server refuses or is gone, requests go to a node whose server answers."""
    (tmp_path / "secret").write_text(SECRET)
    port = free_port()
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serving()) for _ in range(2)]
        nodes = []
        for number, server in enumerate(servers):
            pair = Pair(tmp_path / f"n{number}")
            flags = [
                f"--node-id=n{number}",
                f"--model=big={server.url}#big",
                f"--mesh-port={0 if number else port}",
                f"--seed-nodes=127.0.0.1:{port}",
                f"--mesh-secret-file={tmp_path / 'secret'}",
                "--mesh-host=127.0.0.1",
            ]
            nodes.append(stack.enter_context(pair.node(*flags)))
        for node in nodes:
            wait_for(partial(_knows_a_peer, node))
        servers[1].default = Say(("from ", "the ", "other"))
        if act == "refuse":
            servers[0].default = Refuse(503, "overloaded")
        else:
            servers[0].stop()
        assert content(ask(nodes[0])) == "from the other"


def _knows_a_peer(node: Running) -> bool:
    """Return whether a node is ready and knows that another one is."""
    peers = httpx.get(f"{node.url}/cluster").json()["peers"]
    return is_ready(node) and any(
        model["model_id"] == "big" and model["state"] == "ready"
        for peer in peers
        if peer["state"] == "alive"
        for model in peer["advert"]["models"]
    )


def test_drain_lets_go_of_the_server(front: tuple[Running, Running], upstream: Upstream) -> None:
    """A stopped node leaves no request at the server."""
    node, _ = front
    upstream.default = Say(("Hello",), hang=True)
    with (
        contextlib.suppress(httpx.HTTPError),
        httpx.stream(
            "POST",
            f"{node.url}/v1/chat/completions",
            json={"messages": HELLO, "stream": True},
            timeout=patient(60),
        ) as answer,
    ):
        pieces = answer.iter_raw()
        next(pieces)
        os.kill(node.process.pid, signal.SIGTERM)
        os.kill(node.process.pid, signal.SIGTERM)
        for _ in pieces:
            pass
    assert node.process.wait(patient(30)) == 0
    assert upstream.left.acquire(timeout=patient(10))
