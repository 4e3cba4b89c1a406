"""Structured answers, ways of drawing and likelihoods over HTTP, on real engines."""

import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest

from node.demo import MODEL_PATH
from tests.patience import patient
from tests.processes import Pair, Running, command_of, scrape, value, wait_for
from tests.random_models import DEEP, random_model

pytestmark = pytest.mark.slow

FLAGS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "flags": {"type": "array", "items": {"type": "boolean"}, "minItems": 12, "maxItems": 12}
    },
    "required": ["flags"],
    "additionalProperties": False,
}
USER: Final[dict[str, Any]] = {"messages": [{"role": "user", "content": "Flags, please."}]}
SHAPED: Final[dict[str, Any]] = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "flags", "schema": FLAGS}}
}
CALLED: Final[dict[str, Any]] = {
    "tools": [{"type": "function", "function": {"name": "set_flags", "parameters": FLAGS}}],
    "tool_choice": {"type": "function", "function": {"name": "set_flags"}},
}
ENGINES: Final = ("llama.cpp", "ctransformers")


@pytest.fixture(scope="module", params=ENGINES)
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, str]]:
    """Yield a node with the demo model on each engine, and the engine's name."""
    pair = Pair(tmp_path_factory.mktemp("node"))
    flags = (f"--model=demo={MODEL_PATH}", f"--engine={request.param}", "--slots=1")
    with pair.node(*flags) as running:
        yield running, request.param


def post(node: Running, path: str, body: dict[str, Any]) -> httpx.Response:
    """Send a request."""
    return httpx.post(f"{node.url}{path}", json=body, timeout=patient(60))


TABLE: Final[list[tuple[dict[str, Any], str]]] = [
    ({"frequency_penalty": 1.5}, "llama.cpp"),
    ({"presence_penalty": -1.5}, "llama.cpp"),
    ({"repetition_penalty": 1.3}, ""),
    ({"min_p": 0.2}, "llama.cpp"),
    ({"typical_p": 0.5}, "llama.cpp"),
    ({"top_k": 0}, ""),
    ({"top_k": -1}, ""),
    ({"top_k": 1}, ""),
    ({"logit_bias": {"300": -100}}, "llama.cpp"),
    ({"n": 3}, ""),
    ({"n": 2, "best_of": 2}, ""),
    ({"stop": ["qqq", "www", "eee", "rrr", "ttt", "yyy"]}, ""),
    ({"stop_token_ids": [300, 301]}, ""),
    ({"ignore_eos": True}, ""),
    ({"min_tokens": 5}, ""),
    ({"logprobs": 2}, ""),
    ({"echo": True}, ""),
]
"""Fields of a completion, and the only engine that takes them."""


@pytest.mark.parametrize(("fields", "only"), TABLE, ids=lambda one: "-".join(one) or "all")
def test_field_is_taken_or_refused_by_name(
    node: tuple[Running, str], fields: dict[str, Any], only: str
) -> None:
    """Each way of drawing gives an answer, or a 400 with the engine that takes it."""
    running, engine = node
    asked = {"prompt": "Once upon a time", "max_tokens": 8, "seed": 1} | fields
    response = post(running, "/v1/completions", asked)
    if only and only != engine:
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "unsupported_by_engine")
        assert error["param"] == next(iter(fields))
        assert only in error["message"]
    else:
        assert response.status_code == 200, response.text
        choices = response.json()["choices"]
        assert len(choices) == fields.get("n", 1)
        assert all(choice["text"] for choice in choices)


def test_ways_of_drawing_have_their_effect(node: tuple[Running, str]) -> None:
    """A forbidden token is not drawn, a stop token ends, and the likeliest token is the first."""
    running, engine = node
    asked = {"prompt": "Once upon a time", "max_tokens": 6, "temperature": 0}
    plain = post(running, "/v1/completions", asked | {"logprobs": 1}).json()["choices"][0]
    tokens = post(running, "/tokenize", {"prompt": "Once upon a time" + plain["text"]}).json()
    first = tokens["tokens"][-6]
    stopped = post(running, "/v1/completions", asked | {"stop_token_ids": [first]}).json()
    assert (stopped["choices"][0]["text"], stopped["choices"][0]["finish_reason"]) == ("", "stop")
    drawn = asked | {"temperature": 5, "top_k": 1}
    assert post(running, "/v1/completions", drawn).json()["choices"][0]["text"] == plain["text"]
    if engine == "llama.cpp":
        without = asked | {"logit_bias": {str(first): -100}, "max_tokens": 1}
        other = post(running, "/v1/completions", without).json()["choices"][0]["text"]
        assert not plain["text"].startswith(other)


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_prompt_is_measured_as_evaluations_need_it(
    node: tuple[Running, str], max_tokens: int
) -> None:
    """Token ids in, a log-probability for each but the first out, greedy ones at the top."""
    running, _ = node
    text = "Once upon a time, there was a little girl"
    ids = post(running, "/tokenize", {"prompt": text}).json()["tokens"]
    asked = {"prompt": ids, "max_tokens": max_tokens, "logprobs": 1, "echo": True}
    whole = post(running, "/v1/completions", asked | {"temperature": 0}).json()
    found = whole["choices"][0]["logprobs"]
    assert len(found["tokens"]) == len(ids) + max_tokens
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
    assert all(one < 0 for one in found["token_logprobs"][1:])
    assert all(
        likely <= max(top.values())
        for likely, top in zip(found["token_logprobs"][1:], found["top_logprobs"][1:], strict=True)
    )
    assert text in whole["choices"][0]["text"]
    assert whole["usage"]["completion_tokens"] == max_tokens
    assert whole["usage"]["prompt_tokens"] == len(ids)


def test_chat_has_likelihoods(node: tuple[Running, str]) -> None:
    """A chat's answer has them as well, the likeliest first."""
    running, _ = node
    asked = USER | {"max_tokens": 4, "logprobs": True, "top_logprobs": 3, "temperature": 0}
    content = post(running, "/v1/chat/completions", asked).json()["choices"][0]["logprobs"]
    assert len(content["content"]) == 4
    for one in content["content"]:
        assert [one["token"], one["logprob"]] == [
            one["top_logprobs"][0]["token"],
            one["top_logprobs"][0]["logprob"],
        ]


STRUCTURES: Final[list[dict[str, Any]]] = [
    {"response_format": {"type": "json_object"}, "max_tokens": 1},
    {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "flags", "schema": FLAGS, "strict": True},
        }
    },
    CALLED,
    CALLED | {"tool_choice": "required", "parallel_tool_calls": False},
]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_structure_needs_nothing_of_the_template(
    node: tuple[Running, str], structure: dict[str, Any]
) -> None:
    """The demo model, whose template knows no tools, follows schemas and forced calls."""
    running, engine = node
    response = post(running, "/v1/chat/completions", USER | {"max_tokens": 200} | structure)
    if engine == "ctransformers":
        assert (response.status_code, response.json()["error"]["code"]) == (
            400,
            "unsupported_by_engine",
        )
        return
    (choice,) = response.json()["choices"]
    if structure.get("max_tokens") == 1:  # the demo model may write for ever in a free object
        assert choice["message"]["content"].startswith("{")
    elif "tools" in structure:
        (call,) = choice["message"]["tool_calls"]
        assert len(json.loads(call["function"]["arguments"])["flags"]) == 12
    else:
        assert len(json.loads(choice["message"]["content"])["flags"]) == 12


def test_schema_with_a_fault_is_refused_with_the_place(node: tuple[Running, str]) -> None:
    """A schema that cannot be followed is a 400 that names the field and the place."""
    running, engine = node
    faulty = {"type": "object", "properties": {"a": {"type": "integr"}}}
    wish = {"type": "json_schema", "json_schema": {"name": "x", "schema": faulty}}
    response = post(running, "/v1/chat/completions", USER | {"response_format": wish})
    assert response.status_code == 400
    if engine == "llama.cpp":
        error = response.json()["error"]
        assert error["param"] == "response_format"
        assert "at #/properties/a: unrecognized type integr" in error["message"]


def kill_engine(node: Running) -> None:
    """Kill the llama-server of a node."""
    for child in psutil.Process(node.process.pid).children(recursive=True):
        if "node.engine.llama_cpp.server" in command_of(child):
            os.kill(child.pid, signal.SIGKILL)


def streamed(node: Running, body: dict[str, Any], *, killed_after: int | None) -> str:
    """Return the text or the arguments of a streamed chat, whose engine is killed on the way."""
    pieces = []
    with httpx.stream(
        "POST",
        f"{node.url}/v1/chat/completions",
        json=body | {"stream": True},
        timeout=patient(60),
    ) as response:
        events = (line[6:] for line in response.iter_lines() if line.startswith("data: "))
        for number, event in enumerate(itertools.takewhile(lambda one: one != "[DONE]", events)):
            delta = json.loads(event)["choices"][0]["delta"]
            calls = delta.get("tool_calls") or [{"function": {}}]
            pieces.append(delta.get("content") or calls[0]["function"].get("arguments", ""))
            if number == killed_after:
                kill_engine(node)
    return "".join(pieces)


@pytest.mark.parametrize("wish", [SHAPED, CALLED], ids=["schema", "call"])
@pytest.mark.parametrize("temperature", [0, 1])
def test_structured_answer_outlives_its_engine(
    tmp_path: Path, wish: dict[str, Any], temperature: int
) -> None:
    """An engine that is killed in the middle changes nothing: the same JSON arrives, in full."""
    body = USER | wish | {"max_tokens": 900, "temperature": temperature, "seed": 3}
    flags = (f"--model={random_model('qwen3', DEEP)}", "--context-length=1024", "--slots=1")
    pair = Pair(tmp_path)
    with pair.exporter() as exporter, pair.node(*flags) as node:
        whole = streamed(node, body, killed_after=None)
        assert len(json.loads(whole)["flags"]) == 12
        assert streamed(node, body, killed_after=12) == whole
        wait_for(lambda: value(scrape(exporter.url), "inference_resumed_total") == 1)
