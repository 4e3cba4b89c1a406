"""Request bodies: wrong fields are refused by name, right ones are understood."""

import json
from typing import Any

import msgspec
import pytest
from openai.types import chat as openai_chat

from node.api import chat_schema, reading, schema
from node.api.chat_schema import ChatRequest
from node.api.schema import CompletionRequest, EmbeddingRequest
from node.errors import InvalidRequestError, QueueFullError

WRONG: dict[str, list[Any]] = {
    "model": [1, ["m"], {}],
    "prompt": [None, 1, [], ["a", 2], [1, [2]], [[]], [-1], [2**31], ["a"] * 2049, {}],
    "max_tokens": [0, -2, 1.5, "1", True, 2**31],
    "temperature": [-0.1, 100.5, "hot", []],
    "top_p": [0, -1, 1.1, "x"],
    "top_k": [-2, 1.5, "x"],
    "repetition_penalty": [0, 2.1, "x"],
    "seed": [1.5, "x", 2**63],
    "repeat_penalty": [0, 2.1, "x"],
    "stop": [1, [1], {"a": "b"}, ["a", ""], ["a"] * 65, "a" * 1001],
    "min_p": [-0.1, 1.1, "x"],
    "typical_p": [0, 1.1, "x"],
    "presence_penalty": [-2.1, 2.1, "x"],
    "frequency_penalty": [-2.1, 2.1, "0"],
    "logit_bias": [[], {"a": 1}, {"5": 101}, {"5": "1"}],
    "stop_token_ids": [1, [-1], ["a"], [2**31], [1] * 65],
    "min_tokens": [-1, "1", 2**31],
    "ignore_eos": ["yes", 1],
    "stream": ["yes", 1],
    "stream_options": [True, []],
    "user": [1],
    "n": [0, 129, "1"],
    "best_of": [2, "1"],
}

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def read(**body: Any) -> CompletionRequest:
    return reading.decode(json.dumps(body).encode(), CompletionRequest)


def read_chat(**body: Any) -> ChatRequest:
    return reading.decode(json.dumps(body).encode(), ChatRequest)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_wrong_value_names_its_parameter(name: str, value: object) -> None:
    """A value of a wrong type or out of range is refused with the field's name."""
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
        ([{"role": "user"}], "messages[0].content"),
        ([{"content": "a"}], "messages[0].role"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": 1, "content": "a"}], "messages[0].role"),
        ([{"role": "tool", "content": "a"}], "messages[0].tool_call_id"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": [IMAGE]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"text": "a"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": "a", "tool_calls": [{}]}], "messages[0].tool_calls[0].id"),
        ([{"role": "user", "content": "a", "audio": {}}], "messages[0].audio"),
        ([{"role": "user", "content": "a", "mood": "good"}], "messages[0].mood"),
    ],
)
def test_wrong_message_names_its_parameter(messages: object, parameter: str) -> None:
    """A fault in a message is refused with its path."""
    with pytest.raises(InvalidRequestError) as refused:
        read_chat(messages=messages)
    assert refused.value.parameter == parameter


def test_usage_of_a_stream_needs_a_stream() -> None:
    """`stream_options` without `stream` are refused, as by OpenAI."""
    with pytest.raises(InvalidRequestError) as refused:
        read(prompt="a", stream_options={"include_usage": True})
    assert refused.value.parameter == "stream_options"


def test_answer_cannot_be_longer_than_its_limit() -> None:
    """`min_tokens` above the limit of the answer is refused."""
    assert read(prompt="a", max_tokens=5, min_tokens=5).min_tokens == 5
    with pytest.raises(InvalidRequestError) as refused:
        read(prompt="a", max_tokens=5, min_tokens=6)
    assert refused.value.parameter == "min_tokens"


def test_two_names_of_one_penalty_are_refused_together() -> None:
    """Either name of the penalty is accepted, but not both at once."""
    assert read(prompt="a", repeat_penalty=1.5).sampling().repetition_penalty == 1.5
    with pytest.raises(InvalidRequestError) as refused:
        read(prompt="a", repeat_penalty=1.5, repetition_penalty=1.2)
    assert refused.value.parameter == "repeat_penalty"
    assert read(prompt="a", repeat_penalty=1, repetition_penalty=1)


def test_message_can_be_sent_back_as_it_was_answered() -> None:
    """The message of an answer (OpenAI's model, dumped whole) can be sent back."""
    kept = openai_chat.ChatCompletionMessage(role="assistant", content="Hi").model_dump()
    assert read_chat(messages=[kept]).messages[0].text == "Hi"


def test_text_comes_whole_or_in_parts() -> None:
    """A message may be a list of text parts."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert read_chat(messages=[{"role": "user", "content": parts}]).messages[0].text == "a\nb"


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a"], ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [(1, 2)]),
        ([[1, 2], [3]], [(1, 2), (3,)]),
        (list(range(3000)), [tuple(range(3000))]),
    ],
)
def test_prompts_are_texts_or_tokens_one_or_several(prompt: object, prompts: list[Any]) -> None:
    """A prompt, and an input of embeddings, is a text, token ids, or a list of either."""
    assert read(prompt=prompt).prompts() == prompts
    asked = reading.decode(json.dumps({"input": prompt}).encode(), EmbeddingRequest)
    assert asked.texts() == prompts


def test_number_of_answers_is_limited_in_all() -> None:
    """`n` counts for each prompt, and `best_of` must not rank."""
    assert read(prompt=["a"] * 16, n=128, best_of=128).answers == 128
    with pytest.raises(InvalidRequestError) as refused:
        read(prompt=["a"] * 17, n=128)
    assert refused.value.parameter == "n"


def test_tighter_of_two_limits_holds() -> None:
    """The lower of `max_tokens` and `max_completion_tokens` applies."""
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
        ({"input": [1, "a"]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "dimensions": 3}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "truncate": True}, "truncate"),
    ],
)
def test_wrong_request_for_embeddings_names_its_parameter(
    body: dict[str, Any], parameter: str
) -> None:
    """Embeddings accept texts or tokens, and no other width than the model's."""
    with pytest.raises(InvalidRequestError) as refused:
        reading.decode(json.dumps(body).encode(), EmbeddingRequest)
    assert refused.value.parameter == parameter


def test_embeddings_of_one_text_or_many() -> None:
    """A single text is a list of one."""
    for asked_for, texts in (("ab", ["ab"]), (["a", "b"], ["a", "b"])):
        asked = reading.decode(json.dumps({"input": asked_for}).encode(), EmbeddingRequest)
        assert asked.texts() == texts


def test_missing_field_is_named() -> None:
    """A missing required field is named."""
    with pytest.raises(InvalidRequestError) as refused:
        read(model="m")
    assert refused.value.parameter == "prompt"
    with pytest.raises(InvalidRequestError) as refused_chat:
        read_chat(model="m")
    assert refused_chat.value.parameter == "messages"


def test_every_field_is_understood() -> None:
    """Every supported field reaches the sampling."""
    asked = read(
        model="m",
        prompt="a",
        max_tokens=5,
        temperature=0,
        top_p=0.5,
        top_k=3,
        repetition_penalty=1.5,
        min_p=0.1,
        typical_p=0.9,
        presence_penalty=-1,
        frequency_penalty=2,
        logit_bias={"5": 1, "07": -100},
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
    assert (sampling.min_p, sampling.typical_p) == (0.1, 0.9)
    penalties = (sampling.presence_penalty, sampling.frequency_penalty)
    assert penalties == (-1.0, 2.0)
    assert set(sampling.logit_bias) == {(5, 1), (7, -100)}
    assert asked.stops() == ("x", "y")
    assert asked.wants_usage()


def test_null_means_not_given() -> None:
    """Null means not given."""
    asked = read(prompt="", **dict.fromkeys(set(WRONG) - {"prompt"}))
    sampling = asked.sampling()
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.8, 0.95, 40)
    assert sampling.repetition_penalty == 1.0
    assert asked.stops() == ()
    assert not asked.wants_usage()


def test_seed_that_is_not_given_differs() -> None:
    """Without a seed each request has a different one."""
    asked = read(prompt="a")
    assert asked.sampling().seed != asked.sampling().seed


@pytest.mark.parametrize(
    ("stop", "stops"), [("ab", ("ab",)), ([], ()), ("", ()), (list("abcd"), ("a", "b", "c", "d"))]
)
def test_stops_are_one_or_several(stop: object, stops: tuple[str, ...]) -> None:
    """A single sequence is one stop, not one for each letter."""
    assert read(prompt="a", stop=stop).stops() == stops


def test_error_body_is_openais() -> None:
    """An error body has OpenAI's four fields."""
    assert msgspec.to_builtins(schema.error_body(QueueFullError("wait"))) == {
        "error": {
            "message": "wait",
            "type": "rate_limit_error",
            "param": None,
            "code": "queue_full",
        }
    }


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_that_is_off_considers_every_token(top_k: int) -> None:
    """`top_k` 0 or -1 considers every token, unlike the default."""
    assert read(prompt="a", top_k=top_k).sampling().top_k == schema.EVERY_TOKEN


def test_names_of_the_template_are_its_own() -> None:
    """A caller cannot replace what the node itself gives to the template."""
    messages = [{"role": "user", "content": "a"}]
    kept = {"enable_thinking": False}
    assert read_chat(messages=messages, chat_template_kwargs=kept).chat_template_kwargs == kept
    for name in chat_schema.TEMPLATE_NAMES:
        with pytest.raises(InvalidRequestError) as refused:
            read_chat(messages=messages, chat_template_kwargs={name: 1})
        assert refused.value.parameter == "chat_template_kwargs"


@pytest.mark.parametrize("last", ["user", "assistant"])
def test_switches_of_vllm_must_say_what_happens(last: str) -> None:
    """The switches of vLLM are accepted only if they match what happens."""
    messages = [{"role": "user", "content": "a"}, {"role": last, "content": "b"}]
    continues = last == "assistant"
    switches = {"continue_final_message": continues, "add_generation_prompt": not continues}
    assert read_chat(messages=messages, **switches).messages[-1].role == last
    for name, switch in switches.items():
        with pytest.raises(InvalidRequestError) as refused:
            read_chat(messages=messages, **{name: not switch})
        assert refused.value.parameter == name
