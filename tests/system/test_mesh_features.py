"""Every feature of the API works when another node answers, and when that node is lost."""

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from node.demo import MODEL_PATH
from tests.patience import patient
from tests.processes import Running, value, wait_for
from tests.random_models import DEEP, random_model
from tests.system.test_routing import Cluster, engine_of, knows

pytestmark = pytest.mark.slow

FLAGS: Final = ("--context-length=1024", "--slots=1")
MODELS: Final = ("qwen3", "embedder", "ranker")
TRIP: Final = {
    "type": "object",
    "properties": {"town": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer"}},
    "required": ["town", "days"],
    "additionalProperties": False,
}
COLOURS: Final = 30
LONG: Final = {
    "type": "object",
    "properties": {
        "colours": {
            "type": "array",
            "items": {"enum": ["red", "green"]},
            "minItems": COLOURS,
            "maxItems": COLOURS,
        }
    },
    "required": ["colours"],
    "additionalProperties": False,
}
"""A schema whose answers have some hundred of the deep model's tokens."""
USER: Final = [{"role": "user", "content": "Where?"}]
FUNCTION: Final = {"name": "trip", "parameters": TRIP}
TOOLS: Final = [{"type": "function", "function": FUNCTION}]
NAMED: Final = {"type": "function", "function": {"name": "trip"}}
FORMAT: Final = {"type": "json_schema", "json_schema": {"name": "trip", "schema": TRIP}}
CALLED: Final = [
    *USER,
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm.",
        "tool_calls": [
            {"id": "abcdefghi", "type": "function", "function": {"name": "trip", "arguments": "{}"}}
        ],
    },
    {"role": "tool", "tool_call_id": "abcdefghi", "content": "Rome"},
]
SHORT: Final = {"max_tokens": 16, "temperature": 0}
WHOLE: Final = {"max_tokens": 200, "temperature": 0}
CHAT: Final = "/v1/chat/completions"
TEXTS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "tools required": (CHAT, {"messages": USER, "tools": TOOLS, "tool_choice": "required"} | WHOLE),
    "tool by name": (CHAT, {"messages": USER, "tools": TOOLS, "tool_choice": NAMED} | WHOLE),
    "history of calls": (CHAT, {"messages": CALLED, "tools": TOOLS} | SHORT),
    "json_schema": (CHAT, {"messages": USER, "response_format": FORMAT} | WHOLE),
    "n": (CHAT, {"messages": USER, "n": 2, "seed": 7} | SHORT),
    "batch": ("/v1/completions", {"prompt": ["One", "Two", "Three"]} | SHORT),
    "token ids": ("/v1/completions", {"prompt": [[104, 105], [106]]} | SHORT),
    "sampling": (
        "/v1/completions",
        {"prompt": "One", "min_p": 0.05, "typical_p": 0.9, "presence_penalty": 1, "seed": 4}
        | {"logit_bias": {"104": 2}, "stop_token_ids": [101], "stop": ["x"], "max_tokens": 16},
    ),
    "responses": (
        "/v1/responses",
        {"input": "Where?", "temperature": 0, "tools": [{"type": "function"} | FUNCTION]}
        | {"tool_choice": "required", "max_output_tokens": 200},
    ),
    "messages": (
        "/v1/messages",
        {"messages": USER, "temperature": 0, "max_tokens": 200}
        | {"tools": [{"name": "trip", "input_schema": TRIP}], "tool_choice": {"type": "any"}},
    ),
}
"""Requests that a model of texts answers, whole and streamed."""
OTHERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "embeddings": ("/v1/embeddings", {"model": "embedder", "input": ["one", "two", "three"]}),
    "embedded tokens": ("/v1/embeddings", {"model": "embedder", "input": [[5, 6], [7]]}),
    "rerank": ("/v1/rerank", {"model": "ranker", "query": "a", "documents": ["one", "two"]}),
    "tokenize": ("/tokenize", {"prompt": "Hello"}),
    "tokenized chat": ("/tokenize", {"messages": CALLED, "tools": TOOLS}),
    "detokenize": ("/detokenize", {"tokens": [104, 105]}),
    "template": ("/apply-template", {"messages": CALLED}),
    "count": ("/v1/messages/count_tokens", {"messages": USER}),
}
IDENTITIES: Final = re.compile(
    r'"(?:id|call_id|item_id|created|created_at|completed_at)": ?(?:"[^"]*"|[\d.]+)'
)
"""What differs between two answers with the same content."""
CACHED: Final = re.compile(r'"(?:cached_tokens|cache_read_input_tokens|input_tokens)": ?\d+')


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Running, Running]]:
    """Yield a mesh of a node without the models, and one with them."""
    with contextlib.ExitStack() as stack:
        cluster = Cluster(tmp_path_factory.mktemp("mesh"), stack)
        first = cluster.start("a", f"other={MODEL_PATH}")
        models = ",".join(f"{name}={random_model(name)}" for name in MODELS)
        second = cluster.start("b", models, *FLAGS)
        wait_for(lambda: all(knows(first, name) for name in MODELS), 60)
        yield cluster, first, second


def ask(node: Running, path: str, body: dict[str, Any]) -> str:
    """Return the response without what differs between equal answers."""
    asked = {"model": "qwen3"} | body
    response = httpx.post(f"{node.url}{path}", json=asked, timeout=patient(60))
    assert response.status_code == 200, response.text
    return CACHED.sub("", IDENTITIES.sub("", response.text))


@pytest.mark.parametrize("name", TEXTS)
def test_text_is_that_of_the_node_with_the_model(
    pair: tuple[Cluster, Running, Running], name: str
) -> None:
    """A node without the model answers as the one with it does."""
    _, first, second = pair
    path, body = TEXTS[name]
    assert ask(first, path, body) == ask(second, path, body)


@pytest.mark.parametrize("name", TEXTS)
def test_stream_is_that_of_the_node_with_the_model(
    pair: tuple[Cluster, Running, Running], name: str
) -> None:
    """A stream has the same events; those of several answers mix."""
    _, first, second = pair
    path, body = TEXTS[name]
    streams = [ask(node, path, body | {"stream": True}).split("\n\n") for node in (first, second)]
    assert len(streams[0]) > 3
    assert sorted(streams[0]) == sorted(streams[1])


@pytest.mark.parametrize("name", OTHERS)
def test_vectors_and_tokens_are_those_of_the_node_with_the_model(
    pair: tuple[Cluster, Running, Running], name: str
) -> None:
    """Vectors, scores and tokens come from the node with the model."""
    _, first, second = pair
    path, body = OTHERS[name]
    assert ask(first, path, body) == ask(second, path, body)


def test_refusals_name_the_field(pair: tuple[Cluster, Running, Running]) -> None:
    """What only the node with the model can refuse names the field as it does there."""
    _, first, second = pair
    wrong = {"name": "x", "schema": {"$ref": "#/nowhere"}}
    asked = {"type": "json_schema", "json_schema": wrong}
    body: dict[str, Any] = {"model": "qwen3", "messages": USER, "response_format": asked}
    refused = [
        httpx.post(f"{node.url}{CHAT}", json=body, timeout=patient(60)) for node in (first, second)
    ]
    assert [response.status_code for response in refused] == [400, 400]
    assert refused[0].json() == refused[1].json()
    assert refused[0].json()["error"]["param"] == "response_format"


@pytest.fixture(scope="module")
def deep() -> str:
    """A model whose long answers last for seconds, as `--model` takes it."""
    return f"qwen3={random_model('qwen3', DEEP)}"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A mesh of its own, whose nodes a test may kill."""
    with contextlib.ExitStack() as stack:
        yield Cluster(tmp_path, stack)


def test_busy_node_has_its_peer_answer(cluster: Cluster, deep: str) -> None:
    """While a node's only slot is taken, its idle peer answers requests of every kind."""
    # Its engine is stopped, so that it is not free before the last request, nor replaced.
    flags = [*FLAGS, f"--stall-seconds={patient(600)}"]
    first = cluster.start("a", deep, *flags)
    running = chunks(first, long_object())
    next(running)
    os.kill(engine_of(first), signal.SIGSTOP)
    second = cluster.start("b", deep, *FLAGS)
    wait_for(lambda: knows(first, "qwen3"), 60)
    for path, body in [*TEXTS.values(), OTHERS["tokenized chat"], OTHERS["detokenize"]]:
        assert ask(first, path, body) == ask(second, path, body), path
    assert cluster.requests("a") == 0


def long_call() -> dict[str, Any]:
    """Return a chat whose answer is one long call."""
    tool = {"type": "function", "function": {"name": "paint", "parameters": LONG}}
    named = {"type": "function", "function": {"name": "paint"}}
    return {"tools": [tool], "tool_choice": named}


def long_object() -> dict[str, Any]:
    """Return a chat whose answer is one long object."""
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": LONG}}
    }


def chunks(node: Running, wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a long chat."""
    body = {"model": "qwen3", "messages": USER, "stream": True} | wanted
    body |= {"max_tokens": 900, "temperature": 0}
    url, patience = f"{node.url}{CHAT}", patient(120)
    with httpx.stream("POST", url, json=body, timeout=patience) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


def written(received: list[dict[str, Any]]) -> str:
    """Return the text and the arguments in some chunks."""
    deltas = [one["delta"] for chunk in received for one in chunk.get("choices", ())]
    calls = [call["function"] for delta in deltas for call in delta.get("tool_calls", ())]
    words = [delta.get("content") or "" for delta in deltas]
    return "".join([*words, *(call.get("arguments", "") for call in calls)])


@pytest.mark.parametrize("wanted", [long_call(), long_object()], ids=["call", "object"])
def test_call_or_object_outlives_its_node(
    cluster: Cluster, deep: str, wanted: dict[str, Any]
) -> None:
    """A node killed in the middle of it is replaced, and the whole is the same and valid."""
    first = cluster.start("a", f"other={MODEL_PATH}")
    second = cluster.start("b", deep, *FLAGS)
    wait_for(lambda: knows(first, "qwen3"), 60)
    whole = written(list(chunks(first, wanted)))
    assert len(json.loads(whole)["colours"]) == COLOURS
    stream = chunks(first, wanted)
    some = [next(stream) for _ in range(4)]
    os.kill(engine_of(second), signal.SIGSTOP)  # it must not be complete before the next node is
    cluster.start("c", deep, *FLAGS)
    wait_for(lambda: knows(first, "qwen3", peers=2), 60)
    second.end(signal.SIGKILL)
    rest = list(stream)
    assert "error" not in rest[-1], rest[-1]
    assert written(some + rest) == whole
    resumed = {"reason": "peer_lost"}
    wait_for(lambda: value(cluster.samples("c"), "inference_resumed_total", **resumed) == 1)


@pytest.mark.parametrize("wanted", [long_call(), long_object()], ids=["call", "object"])
def test_call_or_object_that_nobody_can_complete_ends_in_an_error(
    cluster: Cluster, deep: str, wanted: dict[str, Any]
) -> None:
    """When the last node with the model dies, the stream says so; it does not end silently."""
    first = cluster.start("a", f"other={MODEL_PATH}")
    second = cluster.start("b", deep, *FLAGS)
    wait_for(lambda: knows(first, "qwen3"), 60)
    stream = chunks(first, wanted)
    next(stream)
    os.kill(engine_of(second), signal.SIGSTOP)
    second.end(signal.SIGKILL)
    *_, last = stream
    assert last["error"]["code"] == "unavailable"
