"""Each feature of the HTTP API works over gRPC, with the same answer from llama.cpp."""

import base64
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import httpx
import pytest

from tests.grpc_client import Client, connect, pb
from tests.patience import patient
from tests.processes import Pair, Running, scrape, value, wait_for
from tests.random_models import random_model

pytestmark = pytest.mark.slow

MODELS: Final = ("qwen3", "embedder", "ranker")
SCHEMA: Final = {
    "type": "object",
    "properties": {"town": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer"}},
    "required": ["town", "days"],
    "additionalProperties": False,
}
"""Its properties are not in alphabetical order."""
FUNCTIONS: Final = ("weather", "time")
TURNS: Final = [("system", "Be short."), ("user", "How warm is it?")]
SHORT: Final = {"max_tokens": 24, "temperature": 0}


@dataclass
class Said:
    """One answer, whatever protocol it came by."""

    text: str = ""
    calls: list[list[str]] = field(default_factory=list)
    """Each is a name and arguments."""
    finish_reason: str = ""
    tokens: int = 0


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The directories of the node and its exporter."""
    return Pair(tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="module")
def running(processes: Pair) -> Iterator[tuple[Running, Client]]:
    """Yield a node with models of three kinds on llama.cpp, and a gRPC client."""
    models = ",".join(f"{name}={random_model(name)}" for name in MODELS)
    with (
        processes.node(f"--model={models}", "--context-length=1024", "--slots=1") as node,
        connect(node.url) as client,
    ):
        yield node, client


def post(node: Running, path: str, body: dict[str, Any]) -> Any:
    response = httpx.post(f"{node.url}{path}", json=body, timeout=patient(60))
    assert response.status_code == 200, response.text
    return response.json()


def over_http(node: Running, path: str, body: dict[str, Any]) -> list[Said]:
    """Return the answers of an HTTP request."""
    return [_choice(choice) for choice in post(node, path, body)["choices"]]


def _choice(choice: dict[str, Any]) -> Said:
    message = choice.get("message", {"content": choice.get("text")})
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return Said(
        message["content"] or "",
        [[call["name"], call["arguments"]] for call in calls],
        choice["finish_reason"],
    )


def over_grpc(client: Client, request: Any) -> list[Said]:
    """Return the answers of a call."""
    whole = client.inference.Generate(request)
    return [
        Said(
            answer.text,
            [[call.function.name, call.function.arguments] for call in answer.tool_calls],
            _reason(answer.ending),
        )
        for answer in (whole, *whole.others)
    ]


def _reason(ending: Any) -> str:
    name: str = pb.FinishReason.Name(ending.finish_reason)
    return name.removeprefix("FINISH_REASON_").lower()


def streamed(client: Client, request: Any) -> list[Said]:
    """Return the answers of a streaming call, put together."""
    answers: dict[int, Said] = {}
    for message in client.inference.GenerateStream(request):
        said = answers.setdefault(message.index, Said())
        assert not said.finish_reason, "a message after the ending"
        match message.WhichOneof("part"):
            case "text":
                said.text += message.text
            case "tool_call":
                call = message.tool_call
                if call.name:
                    assert call.id
                    assert call.index == len(said.calls)
                    said.calls.append([call.name, ""])
                said.calls[call.index][1] += call.arguments
            case "ending":
                said.finish_reason = _reason(message.ending)
    return [answers[number] for number in range(len(answers))]


def check_equal(running: tuple[Running, Client], body: dict[str, Any], request: Any) -> list[Said]:
    """Check that both protocols and a stream have the same answers; return them."""
    node, client = running
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    expected = over_http(node, path, body)
    assert over_grpc(client, request) == expected
    assert streamed(client, request) == expected
    return expected


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 0.9, "top_p": 0.9, "top_k": 30, "repetition_penalty": 1.2},
        {"temperature": 0.9, "top_k": 0, "min_p": 0.01, "typical_p": 0.9},
        {"temperature": 0.5, "presence_penalty": 1.5, "frequency_penalty": 1},
        {"temperature": 0, "logit_bias": {101: 100}},
        {"temperature": 0.9, "ignore_eos": True, "min_tokens": 24},
        {"temperature": 0.9, "stop": ["a", "e", "i", "o", "u"]},
        {"temperature": 0.9, "stop_token_ids": list(range(97, 123))},
        {"temperature": 0.9, "n": 3},
    ],
    ids="-".join,
)
def test_sampling_is_that_of_http(running: tuple[Running, Client], fields: dict[str, Any]) -> None:
    """Every sampling parameter gives the same text over HTTP, gRPC and in a stream."""
    fields = fields | {"prompt": "Once upon a time", "max_tokens": 24, "seed": 5}
    answers = check_equal(running, fields, pb.GenerateRequest(**fields))
    assert len(answers) == fields.get("n", 1)
    if "logit_bias" in fields:
        assert set(answers[0].text) == {"e"}


def test_prompts_may_be_tokens_and_several(running: tuple[Running, Client]) -> None:
    """A prompt of token ids, and several prompts with several answers, as over HTTP."""
    ids = pb.TokenIds(ids=[104, 105])
    request = pb.GenerateRequest(prompt_token_ids=ids, **SHORT)
    check_equal(running, {"prompt": [104, 105]} | SHORT, request)
    prompts = pb.Prompts(prompts=[pb.Prompt(text="One"), pb.Prompt(text="Two")])
    request = pb.GenerateRequest(prompts=prompts, n=2, max_tokens=12, seed=3)
    body = {"prompt": ["One", "Two"], "n": 2, "max_tokens": 12, "seed": 3}
    assert len(check_equal(running, body, request)) == 4
    prompts = pb.Prompts(prompts=[pb.Prompt(token_ids=ids), pb.Prompt(token_ids=ids)])
    request = pb.GenerateRequest(prompts=prompts, **SHORT)
    assert len(check_equal(running, {"prompt": [[104, 105]] * 2} | SHORT, request)) == 2


def tools(*, strict: bool = False) -> list[Any]:
    shared = {"description": "Tell.", "parameters": json.dumps(SCHEMA), "strict": strict}
    return [pb.Tool(function=pb.Function(name=name, **shared)) for name in FUNCTIONS]


def http_tools(*, strict: bool = False) -> list[Any]:
    shared = {"description": "Tell.", "parameters": SCHEMA, "strict": strict}
    return [{"type": "function", "function": {"name": name} | shared} for name in FUNCTIONS]


def turns(*more: Any) -> list[Any]:
    return [*(pb.ChatMessage(role=role, content=content) for role, content in TURNS), *more]


def http_turns(*more: dict[str, Any]) -> list[Any]:
    return [*({"role": role, "content": content} for role, content in TURNS), *more]


@pytest.mark.parametrize("forced", ["required", "weather"])
def test_forced_call_is_that_of_http(running: tuple[Running, Client], forced: str) -> None:
    """A call that the grammar forces has the same name and arguments, whole and streamed."""
    by_name = forced in FUNCTIONS
    choice = pb.ToolChoice(function=forced) if by_name else pb.ToolChoice(mode=forced)
    chat = pb.Chat(
        messages=turns(), tools=tools(strict=True), tool_choice=choice, parallel_tool_calls=False
    )
    named = {"type": "function", "function": {"name": forced}}
    body = {
        "messages": http_turns(),
        "tools": http_tools(strict=True),
        "tool_choice": named if by_name else forced,
        "parallel_tool_calls": False,
        "max_tokens": 400,
        "temperature": 0,
    }
    request = pb.GenerateRequest(chat=chat, max_tokens=400, temperature=0)
    (said,) = check_equal(running, body, request)
    ((name, arguments),) = said.calls
    assert name in FUNCTIONS
    assert list(json.loads(arguments)) == ["town", "days"]
    assert said.finish_reason == "tool_calls"


def test_history_of_calls_reaches_the_template(running: tuple[Running, Client]) -> None:
    """Calls, their results and thoughts of earlier turns are rendered as over HTTP."""
    function = {"name": "time", "arguments": '{"a": 1}'}
    call = {"id": "abcdefghi", "type": "function", "function": function}
    history = turns(
        pb.ChatMessage(
            role="assistant",
            reasoning_content="Hm.",
            tool_calls=[pb.ToolCall(id="abcdefghi", function=pb.FunctionCall(**function))],
        ),
        pb.ChatMessage(role="tool", content="20", tool_call_id="abcdefghi"),
    )
    turn = {"role": "assistant", "reasoning_content": "Hm.", "content": None}
    result = {"role": "tool", "content": "20", "tool_call_id": "abcdefghi"}
    called = turn | {"tool_calls": [call]}
    body = {"messages": http_turns(called, result), "tools": http_tools()}
    chat = pb.Chat(messages=history, tools=tools())
    check_equal(running, body | SHORT, pb.GenerateRequest(chat=chat, **SHORT))


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_structured_answer_is_that_of_http(running: tuple[Running, Client], kind: str) -> None:
    """An answer matches its schema, with the properties in the schema's order."""
    asked: dict[str, Any] = {"type": kind}
    wanted = pb.ResponseFormat(type=kind)
    if kind == "json_schema":
        asked["json_schema"] = {"name": "trip", "schema": SCHEMA, "strict": True}
        wanted.json_schema.CopyFrom(pb.JsonSchema(name="trip", schema=json.dumps(SCHEMA)))
    body = {"messages": http_turns(), "response_format": asked, "max_tokens": 400}
    chat = pb.Chat(messages=turns(), response_format=wanted)
    request = pb.GenerateRequest(chat=chat, max_tokens=400, temperature=0)
    (said,) = check_equal(running, body | {"temperature": 0}, request)
    if kind == "json_schema":
        assert list(json.loads(said.text)) == ["town", "days"]


def logs(answer: Any) -> list[Any]:
    """Return tokens with their log probabilities, from a message of either kind."""
    return [
        (bytes(one.bytes), pytest.approx(one.logprob, abs=1e-4), len(one.top_logprobs))
        for one in answer.logprobs
    ]


def test_logprobs_are_those_of_http(running: tuple[Running, Client]) -> None:
    """Each token of a chat has the log probability that it has over HTTP, also in a stream."""
    node, client = running
    asked = {"logprobs": True, "top_logprobs": 3} | SHORT
    choice = post(node, "/v1/chat/completions", {"messages": http_turns()} | asked)["choices"][0]
    expected = [
        (bytes(one["bytes"]), one["logprob"], len(one["top_logprobs"]))
        for one in choice["logprobs"]["content"]
    ]
    assert len(expected) == 24
    request = pb.GenerateRequest(chat=pb.Chat(messages=turns()), **asked)
    assert logs(client.inference.Generate(request)) == expected
    messages = client.inference.GenerateStream(request)
    assert [one for message in messages for one in logs(message)] == expected


def test_echoed_prompt_is_that_of_http(running: tuple[Running, Client]) -> None:
    """An echoed prompt has its log probabilities, but none for its first token."""
    node, client = running
    body = {"prompt": "Once", "echo": True, "logprobs": 2, "max_tokens": 1, "temperature": 0}
    theirs = post(node, "/v1/completions", body)["choices"][0]
    request = pb.GenerateRequest(**body | {"logprobs": True, "top_logprobs": 2})
    ours = client.inference.Generate(request)
    assert ours.text == theirs["text"]
    assert ours.text.startswith("Once")
    assert not ours.logprobs[0].HasField("logprob")
    values = [one.logprob if one.HasField("logprob") else None for one in ours.logprobs]
    assert values == pytest.approx(theirs["logprobs"]["token_logprobs"], abs=1e-4)
    messages = list(client.inference.GenerateStream(request))
    assert "".join(message.text for message in messages) == ours.text
    assert [one for message in messages for one in logs(message)] == logs(ours)


def test_stream_has_the_usage_so_far(running: tuple[Running, Client]) -> None:
    """With `continuous_usage_stats` the tokens count up to those of the ending."""
    _, client = running
    request = pb.GenerateRequest(prompt="Once", continuous_usage_stats=True, **SHORT)
    *pieces, last = client.inference.GenerateStream(request)
    counts = [piece.usage.generated_tokens for piece in pieces]
    assert counts == sorted(counts)
    assert counts[-1] == last.ending.usage.generated_tokens == 24


def test_embeddings_are_those_of_http(running: tuple[Running, Client]) -> None:
    """Texts and tokens have the same vectors, to the last bit of 32."""
    node, client = running
    inputs: list[tuple[Any, Any]] = [
        (["one", "two"], [pb.Prompt(text="one"), pb.Prompt(text="two")]),
        ([[5, 6]], [pb.Prompt(token_ids=pb.TokenIds(ids=[5, 6]))]),
    ]
    for texts, prompts in inputs:
        body = {"model": "embedder", "input": texts, "encoding_format": "base64"}
        theirs = post(node, "/v1/embeddings", body)
        ours = client.inference.Embed(pb.EmbedRequest(model="embedder", input=prompts))
        packed = [struct.pack(f"<{len(one.values)}f", *one.values) for one in ours.embeddings]
        assert packed == [base64.b64decode(one["embedding"]) for one in theirs["data"]]
        assert ours.usage.prompt_tokens == theirs["usage"]["prompt_tokens"]
        assert ours.model == "embedder"


def test_ranking_is_that_of_http(running: tuple[Running, Client]) -> None:
    """Documents are sorted as over HTTP, and only the best ones are returned."""
    node, client = running
    asked = {"model": "ranker", "query": "a", "documents": ["one", "two", "three"], "top_n": 2}
    theirs = post(node, "/v1/rerank", asked)["results"]
    ours = client.inference.Rerank(pb.RerankRequest(**asked)).results
    assert [(one.index, one.relevance_score) for one in ours] == [
        (one["index"], one["relevance_score"]) for one in theirs
    ]


def test_tokens_are_those_of_http(running: tuple[Running, Client]) -> None:
    """A text and a chat have the same tokens, and tokens the same text."""
    node, client = running
    theirs = post(node, "/tokenize", {"prompt": "Hello"})["tokens"]
    ours = client.inference.Tokenize(pb.TokenizeRequest(prompt="Hello"))
    assert (list(ours.tokens), ours.text) == (theirs, "Hello")
    chat = pb.Chat(
        messages=turns(), tools=tools(), chat_template_kwargs='{"enable_thinking": true}'
    )
    ours = client.inference.Tokenize(pb.TokenizeRequest(chat=chat))
    body = {
        "messages": http_turns(),
        "tools": http_tools(),
        "chat_template_kwargs": {"enable_thinking": True},
    }
    assert list(ours.tokens) == post(node, "/tokenize", body)["tokens"]
    assert ours.text == post(node, "/apply-template", body)["prompt"]
    shown = client.inference.Detokenize(pb.DetokenizeRequest(tokens=theirs))
    assert shown.text == "Hello"


def chat_with(**fields: Any) -> dict[str, Any]:
    return {"chat": pb.Chat(messages=turns(), **fields)}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"prompt": "a", "n": 129}, "`n`"),
        ({"prompt": "a", "min_p": 2}, "`min_p`"),
        ({"prompt": "a", "logit_bias": {1: 101}}, "`logit_bias"),
        ({"prompts": pb.Prompts()}, "`prompt`"),
        ({"prompts": pb.Prompts(prompts=[pb.Prompt()])}, "`prompt[0]`"),
        (chat_with(tools=[pb.Tool(function=pb.Function(name="a b"))]), "`tools[0].function.name`"),
        (
            chat_with(tools=[pb.Tool(function=pb.Function(name="a", parameters="{"))]),
            "`tools[0].function.parameters`",
        ),
        (chat_with(tool_choice=pb.ToolChoice(mode="required")), "`tool_choice`"),
        (chat_with(tool_choice=pb.ToolChoice(mode="any")), "`tool_choice`"),
        (chat_with(response_format=pb.ResponseFormat(type="xml")), "`response_format.type`"),
        (
            chat_with(response_format=pb.ResponseFormat(type="json_schema")),
            "`response_format.json_schema`",
        ),
        (chat_with(chat_template_kwargs="[]"), "`chat_template_kwargs`"),
    ],
)
def test_wrong_field_is_named(
    running: tuple[Running, Client], fields: dict[str, Any], named: str
) -> None:
    """A refusal is INVALID_ARGUMENT and names the field by its path."""
    _, client = running
    calls: Sequence[Any] = (client.inference.Generate, client.inference.GenerateStream)
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            list(answer) if isinstance(
                answer := call(pb.GenerateRequest(**fields)), Iterator
            ) else 0
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert named in caught.value.details()


def test_several_answers_of_a_caller_that_leaves_are_cancelled(
    processes: Pair, running: tuple[Running, Client]
) -> None:
    """Leaving a stream of several answers ends all of them; the engine is free for the next."""
    _, client = running
    request = pb.GenerateRequest(prompt="Once", n=8, max_tokens=900, ignore_eos=True)
    call = client.inference.GenerateStream(request)
    next(call)
    call.cancel()
    assert client.inference.Generate(pb.GenerateRequest(prompt="Once", **SHORT)).text
    with processes.exporter() as exporter:
        # All but the first, which may have been complete.
        wait_for(lambda: _cancelled(exporter) >= 7)


def _cancelled(exporter: Running) -> float:
    return value(scrape(exporter.url), "inference_requests_total", status="cancelled") or 0
