"""Bodies of requests: each wrong field is refused by its name, each good one understood."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.api import schema
from node.api.schema import ChatRequest, CompletionRequest, Form, Usage
from node.errors import InvalidRequestError, QueueFullError

WRONG: dict[str, list[Any]] = {
    "model": [1, ["m"], {}],
    "prompt": [None, 1, ["a"], {}],
    "max_tokens": [0, -1, 1.5, "1", True, 2**31],
    "temperature": [-0.1, 100.5, "hot", []],
    "top_p": [0, -1, 1.1, "x"],
    "top_k": [0, -1, 1.5, "x"],
    "repetition_penalty": [0, 2.1, "x"],
    "seed": [1.5, "x", 2**63],
    "stop": [1, [1], {"a": "b"}],
    "stream": ["yes", 1],
    "stream_options": [True, []],
    "user": [1],
    "n": [2, 0, "1"],
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
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content"),
        ([{"role": "user", "content": "a", "tool_calls": []}], "tool_calls"),
    ],
)
def test_wrong_message_names_its_parameter(messages: object, parameter: str) -> None:
    """What is wrong in a chat's messages is named."""
    with pytest.raises(InvalidRequestError) as refused:
        read_chat(messages=messages)
    assert refused.value.parameter == parameter


@pytest.mark.parametrize("name", ["logprobs", "tools", "best_of", "Prompt", "echo"])
def test_unknown_field_is_refused_by_name(name: str) -> None:
    """A field that is not supported is never ignored."""
    with pytest.raises(InvalidRequestError, match=name) as refused:
        read(**{"prompt": "a", name: 1})
    assert refused.value.parameter == name


def test_unknown_field_of_stream_options_is_refused_by_name() -> None:
    """Nested objects are held to the same."""
    with pytest.raises(InvalidRequestError) as refused:
        read(prompt="a", stream_options={"include_obfuscation": True})
    assert refused.value.parameter == "include_obfuscation"


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


@pytest.mark.parametrize("stop", ["", ["a", ""], list("abcde")])
def test_stops_outside_their_limits_are_refused(stop: object) -> None:
    """There are at most four stop sequences and none is empty."""
    with pytest.raises(InvalidRequestError) as refused:
        read(prompt="a", stop=stop).stops()
    assert refused.value.parameter == "stop"


@pytest.mark.parametrize(
    ("stop", "stops"), [("ab", ("ab",)), ([], ()), (list("abcd"), ("a", "b", "c", "d"))]
)
def test_stops_are_one_or_several(stop: object, stops: tuple[str, ...]) -> None:
    """A lone sequence is one stop, not one for each letter."""
    assert read(prompt="a", stop=stop).stops() == stops


def test_error_body_is_openais() -> None:
    """An error has OpenAI's four fields."""
    assert schema.error_body(QueueFullError("wait")) == {
        "error": {
            "message": "wait",
            "type": "rate_limit_error",
            "param": None,
            "code": "queue_full",
        }
    }


@pytest.mark.parametrize(("chat", "kind"), [(True, "chat.completion"), (False, "text_completion")])
def test_stream_tells_the_same_as_the_whole(*, chat: bool, kind: str) -> None:
    """The pieces of a stream are of one answer, whose text is theirs together."""
    form = Form("m", 7, chat=chat)
    usage = Usage(1, 2, 3, {"cached_tokens": 0})
    whole = form.whole("ab", "stop", usage)
    opening = form.first()
    chunks = [*([opening] if opening else []), form.piece("a"), form.piece("b"), form.last("stop")]
    assert whole["object"] == kind
    assert {chunk["id"] for chunk in chunks} == {whole["id"]}
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    if chat:
        text = "".join(choice["delta"].get("content", "") for choice in choices)
        assert whole["choices"][0]["message"] == {"role": "assistant", "content": text}
        assert choices[0]["delta"]["role"] == "assistant"
    else:
        assert "".join(choice["text"] for choice in choices) == whole["choices"][0]["text"]
    account = form.usage(usage)
    assert account["choices"] == []
    assert msgspec.to_builtins(account["usage"]) == msgspec.to_builtins(whole["usage"])
