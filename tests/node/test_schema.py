"""Bodies of requests: each wrong field is refused by its name, each good one understood."""

import contextlib
import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import chat as openai_chat

from node.api import schema
from node.api.http.answer import ChatChunk, ChatCompletion, Completion, Form, TokenDetails, Usage
from node.api.schema import ChatRequest, CompletionRequest, EmbeddingRequest
from node.errors import InvalidRequestError, QueueFullError

WRONG: dict[str, list[Any]] = {
    "model": [1, ["m"], {}],
    "prompt": [None, 1, [], ["a", "b"], [1, 2], [[1, 2]], {}],
    "max_tokens": [0, -1, 1.5, "1", True, 2**31],
    "temperature": [-0.1, 100.5, "hot", []],
    "top_p": [0, -1, 1.1, "x"],
    "top_k": [0, -1, 1.5, "x"],
    "repetition_penalty": [0, 2.1, "x"],
    "seed": [1.5, "x", 2**63],
    "repeat_penalty": [0, 2.1, "x"],
    "stop": [1, [1], {"a": "b"}, "", ["a", ""], list("abcde"), "a" * 1001],
    "stream": ["yes", 1],
    "stream_options": [True, []],
    "user": [1],
    "n": [2, 0, "1"],
}

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}

UNSUPPORTED: dict[str, tuple[list[Any], list[Any]]] = {
    "n": ([1], [2, 0, "1", True]),
    "logprobs": ([False], [True, 0, 3]),
    "frequency_penalty": ([0, 0.0, -0.0], [0.1, -2, "0"]),
    "presence_penalty": ([0], [1]),
    "logit_bias": ([{}], [{"5": 1}, []]),
}
"""Of fields that are not supported: what says nothing else than their default, and what does."""
UNSUPPORTED_IN_COMPLETIONS: dict[str, tuple[list[Any], list[Any]]] = {
    "best_of": ([1], [2]),
    "echo": ([False], [True, 0]),
    "suffix": ([""], ["end"]),
}
UNSUPPORTED_IN_CHATS: dict[str, tuple[list[Any], list[Any]]] = {
    "audio": ([], [{"voice": "alloy", "format": "mp3"}]),
    "function_call": (["none", "auto"], [{"name": "f"}, "f"]),
    "functions": ([[]], [[{"name": "f"}]]),
    "metadata": ([{}], [{"a": "b"}]),
    "modalities": ([["text"]], [["text", "audio"]]),
    "parallel_tool_calls": ([True, False], ["yes"]),
    "prediction": ([], [{"type": "content", "content": "x"}]),
    "prompt_cache_key": ([], ["k"]),
    "reasoning_effort": (["none"], ["high"]),
    "response_format": ([{"type": "text"}], [{"type": "json_object"}, {}]),
    "service_tier": (["auto", "default"], ["flex"]),
    "store": ([False], [True]),
    "tool_choice": (["none", "auto"], ["required", {"type": "function"}]),
    "tools": ([[]], [[{"type": "function"}]]),
    "top_logprobs": ([0], [1]),
    "verbosity": (["medium"], ["low"]),
    "web_search_options": ([], [{}]),
}


def read(**body: Any) -> CompletionRequest:
    asked: CompletionRequest = schema.decode(schema.completion_decoder, json.dumps(body).encode())
    return asked


def read_chat(**body: Any) -> ChatRequest:
    asked: ChatRequest = schema.decode(schema.chat_decoder, json.dumps(body).encode())
    return asked


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_wrong_value_names_its_parameter(name: str, value: object) -> None:
    """A value of a wrong type or out of range is refused by the name of its field."""
    with pytest.raises(InvalidRequestError) as refused:
        read(**{"prompt": "a", name: value})
    assert refused.value.status == 400
    assert str(refused.value.parameter).partition("[")[0] == name


@pytest.mark.parametrize(
    ("messages", "parameter"),
    [
        ("hi", "messages"),
        ([], "messages"),
        (["hi"], "messages[0]"),
        ([{"role": "user"}], "content"),
        ([{"content": "a"}], "role"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": 1, "content": "a"}], "messages[0].role"),
        ([{"role": "tool", "content": "a"}], "messages[0].role"),
        ([{"role": "user", "content": [{"type": "text"}]}], "text"),
        ([{"role": "user", "content": [IMAGE]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"text": "a"}]}], "type"),
        ([{"role": "user", "content": [{"image_url": {}, "type": "image_url"}]}], "image_url"),
        ([{"role": "user", "content": "a", "tool_calls": [{}]}], "messages[0].tool_calls"),
        ([{"role": "user", "content": "a", "audio": {}}], "messages[0].audio"),
        ([{"role": "user", "content": "a", "mood": "good"}], "mood"),
    ],
)
def test_wrong_message_names_its_parameter(messages: object, parameter: str) -> None:
    """What is wrong in a chat's messages is named."""
    with pytest.raises(InvalidRequestError) as refused:
        read_chat(messages=messages)
    assert refused.value.parameter == parameter


def every(cases: dict[str, tuple[list[Any], list[Any]]], which: int) -> list[tuple[str, Any]]:
    return [(name, value) for name, values in cases.items() for value in values[which]]


@pytest.mark.parametrize(
    ("name", "value"), every(UNSUPPORTED, 1) + every(UNSUPPORTED_IN_COMPLETIONS, 1)
)
def test_unsupported_field_of_a_completion_is_refused_by_name(name: str, value: object) -> None:
    """What would change the answer is never ignored."""
    with pytest.raises(InvalidRequestError, match=f"{name} is not supported") as refused:
        read(prompt="a", **{name: value})
    assert refused.value.parameter == name


@pytest.mark.parametrize(("name", "value"), every(UNSUPPORTED, 1) + every(UNSUPPORTED_IN_CHATS, 1))
def test_unsupported_field_of_a_chat_is_refused_by_name(name: str, value: object) -> None:
    """As in completions."""
    with pytest.raises(InvalidRequestError, match=name) as refused:
        read_chat(messages=[{"role": "user", "content": "a"}], **{name: value})
    assert re.split(r"[.\[]", str(refused.value.parameter))[0] in (name, "type")


def test_default_of_an_unsupported_field_is_taken() -> None:
    """Clients send fields that say what happens anyway: each such value, and null, is taken."""
    chat = {"messages": [{"role": "user", "content": "a"}]}
    for name, value in every(UNSUPPORTED, 0) + every(UNSUPPORTED_IN_COMPLETIONS, 0):
        assert read(prompt="a", **{name: value}).text == "a"
    for name, value in every(UNSUPPORTED, 0) + every(UNSUPPORTED_IN_CHATS, 0):
        assert read_chat(**chat, **{name: value}).messages[0].text == "a"
    assert read(prompt="a", **dict.fromkeys(UNSUPPORTED | UNSUPPORTED_IN_COMPLETIONS)).text == "a"
    assert read_chat(**chat, **dict.fromkeys(UNSUPPORTED | UNSUPPORTED_IN_CHATS)).messages


@pytest.mark.parametrize("name", ["Prompt", "messages", "min_p", "guided_json", "_", ""])
def test_unknown_field_is_refused_by_name(name: str) -> None:
    """A field that nobody knows is never ignored."""
    with pytest.raises(InvalidRequestError, match=f"`{name}`"):
        read(**{"prompt": "a", name: 1})


def test_unknown_field_of_stream_options_is_refused_by_name() -> None:
    """Nested objects are held to the same."""
    for options in ({"include_obfuscation": True}, {"include_everything": True}):
        with pytest.raises(InvalidRequestError) as refused:
            read(prompt="a", stream=True, stream_options=options)
        assert str(refused.value.parameter).endswith(next(iter(options)))
    assert read(prompt="a", stream=True, stream_options={"include_obfuscation": False})


def test_usage_of_a_stream_needs_a_stream() -> None:
    """As at OpenAI, what is said of a stream is refused where there is none."""
    with pytest.raises(InvalidRequestError) as refused:
        read(prompt="a", stream_options={"include_usage": True})
    assert refused.value.parameter == "stream_options"


def test_two_names_of_one_penalty_are_refused_together() -> None:
    """Either name is understood; both at once would leave one ignored."""
    assert read(prompt="a", repeat_penalty=1.5).sampling().repetition_penalty == 1.5
    with pytest.raises(InvalidRequestError) as refused:
        read(prompt="a", repeat_penalty=1.5, repetition_penalty=1.2)
    assert refused.value.parameter == "repeat_penalty"


def test_message_can_be_sent_back_as_it_was_answered() -> None:
    """What clients keep of an answer (OpenAI's model, dumped whole) is a message again."""
    kept = openai_chat.ChatCompletionMessage(role="assistant", content="Hi").model_dump()
    assert read_chat(messages=[kept]).messages[0].text == "Hi"


def test_text_comes_whole_or_in_parts() -> None:
    """A prompt can be a list of one; a message can be OpenAI's list of text parts."""
    assert read(prompt=["a"]).text == "a"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert read_chat(messages=[{"role": "user", "content": parts}]).messages[0].text == "a\nb"


def test_tighter_of_two_limits_holds() -> None:
    """Neither max_tokens nor the name that replaces it is ignored."""
    chat = {"messages": [{"role": "user", "content": "a"}]}
    assert read_chat(**chat).output_limit == 0
    assert read_chat(**chat, max_tokens=5).output_limit == 5
    assert read_chat(**chat, max_completion_tokens=6).output_limit == 6
    assert read_chat(**chat, max_tokens=5, max_completion_tokens=6).output_limit == 5


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [1, 2]}, "input[0]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "dimensions": 3}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "truncate": True}, "truncate"),
    ],
)
def test_wrong_request_for_embeddings_names_its_parameter(
    body: dict[str, Any], parameter: str
) -> None:
    """Embeddings are asked for with text alone, and get the model's own width."""
    with pytest.raises(InvalidRequestError) as refused:
        schema.decode(schema.embedding_decoder, json.dumps(body).encode())
    assert refused.value.parameter == parameter


def test_embeddings_of_one_text_or_many() -> None:
    """A lone text is one text."""
    for asked_for, texts in (("ab", ["ab"]), (["a", "b"], ["a", "b"])):
        asked: EmbeddingRequest = schema.decode(
            schema.embedding_decoder, json.dumps({"input": asked_for}).encode()
        )
        assert asked.texts() == texts


def test_missing_field_is_named() -> None:
    """What a request needs is asked for by name."""
    with pytest.raises(InvalidRequestError) as refused:
        read(model="m")
    assert refused.value.parameter == "prompt"
    with pytest.raises(InvalidRequestError) as refused_chat:
        read_chat(model="m")
    assert refused_chat.value.parameter == "messages"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"prompt": "a"',
        b'{"prompt": "a"} x',
        b"\xff\xfe",
        b'{"prompt": "\xff"}',
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": 1e999}',
        b"prompt=a",
        b"[" * 100_000,
        b'{"prompt": ' + b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_body_that_is_no_json_is_refused(body: bytes) -> None:
    """Whatever the bytes are, the answer is a 400."""
    with pytest.raises(InvalidRequestError):
        schema.decode(schema.completion_decoder, body)


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    """No body does more than to be refused."""
    with contextlib.suppress(InvalidRequestError):
        assert isinstance(schema.decode(schema.chat_decoder, body), ChatRequest)


def test_every_field_is_understood() -> None:
    """What a caller may say reaches the sampling."""
    asked = read(
        model="m",
        prompt="a",
        max_tokens=5,
        temperature=0,
        top_p=0.5,
        top_k=3,
        repetition_penalty=1.5,
        seed=-7,
        stop=["x", "y"],
        stream=True,
        stream_options={"include_usage": True},
        user="u",
        n=1,
    )
    sampling = asked.sampling()
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0, 0.5, 3)
    assert (sampling.repetition_penalty, sampling.seed) == (1.5, -7)
    assert asked.stops() == ("x", "y")
    assert asked.wants_usage()


def test_null_means_not_given() -> None:
    """Clients that send null for what they do not set are understood."""
    asked = read(prompt="", **dict.fromkeys(set(WRONG) - {"prompt"}))
    sampling = asked.sampling()
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.8, 0.95, 40)
    assert sampling.repetition_penalty == 1.0
    assert asked.stops() == ()
    assert not asked.wants_usage()


def test_seed_that_is_not_given_differs() -> None:
    """Two requests without a seed are two draws."""
    asked = read(prompt="a")
    assert asked.sampling().seed != asked.sampling().seed


@pytest.mark.parametrize(
    ("stop", "stops"), [("ab", ("ab",)), ([], ()), (list("abcd"), ("a", "b", "c", "d"))]
)
def test_stops_are_one_or_several(stop: object, stops: tuple[str, ...]) -> None:
    """A lone sequence is one stop, not one for each letter."""
    assert read(prompt="a", stop=stop).stops() == stops


def test_error_body_is_openais() -> None:
    """An error has OpenAI's four fields."""
    assert msgspec.to_builtins(schema.error_body(QueueFullError("wait"))) == {
        "error": {
            "message": "wait",
            "type": "rate_limit_error",
            "param": None,
            "code": "queue_full",
        }
    }


@pytest.mark.parametrize("with_usage", [True, False])
def test_stream_of_a_completion_tells_the_same_as_the_whole(*, with_usage: bool) -> None:
    """The pieces of a stream are of one answer, whose text is theirs together."""
    form = Form("m", 7, chat=False, with_usage=with_usage)
    whole = form.whole("ab", "stop", USAGE)
    assert form.first() is None
    chunks = [form.piece("a"), form.piece("b"), form.last("stop")]
    assert isinstance(whole, Completion)
    texts = [chunk.choices[0].text for chunk in chunks if isinstance(chunk, Completion)]
    assert "".join(texts) == whole.choices[0].text
    check_alike(whole, chunks, form)


@pytest.mark.parametrize("with_usage", [True, False])
def test_stream_of_a_chat_tells_the_same_as_the_whole(*, with_usage: bool) -> None:
    """As with a completion; the first chunk says whose turn it is."""
    form = Form("m", 7, chat=True, with_usage=with_usage)
    whole = form.whole("ab", "stop", USAGE)
    opening = form.first()
    assert opening is not None
    assert isinstance(whole, ChatCompletion)
    assert opening.choices[0].delta.role == whole.choices[0].message.role == "assistant"
    chunks = [opening, form.piece("a"), form.piece("b"), form.last("stop")]
    deltas = [chunk.choices[0].delta for chunk in chunks if isinstance(chunk, ChatChunk)]
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    check_alike(whole, chunks, form)


USAGE = Usage(1, 2, 3, TokenDetails(0))


def check_alike(
    whole: Completion | ChatCompletion, chunks: Sequence[Completion | ChatChunk], form: Form
) -> None:
    assert {chunk.id for chunk in chunks} == {whole.id}
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    for chunk in chunks:  # OpenAI's stream has the field, as null, where usage was asked for
        assert msgspec.to_builtins(chunk).get("usage", "-") == (None if form.with_usage else "-")
    account = form.usage(USAGE)
    assert account.choices == []
    assert account.usage == whole.usage
