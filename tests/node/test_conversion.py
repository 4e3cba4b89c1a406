"""API requests become scheduler requests without loss, or are refused before they are queued."""

import json
from typing import Any

import pytest

from node.api import conversion, reading
from node.api.chat_schema import ChatRequest
from node.api.schema import CompletionRequest, EmbeddingRequest
from node.errors import InvalidRequestError
from node.requests.request import Chat


def read(kind: type[Any], **body: Any) -> Any:
    return reading.decode(json.dumps(body).encode(), kind)


def test_completion_is_text_alone() -> None:
    """A prompt is text only, whatever is in it."""
    asked = read(CompletionRequest, prompt="<s>a", max_tokens=3, stop="b", stream=True, seed=4)
    [wanted] = conversion.completion_requests(asked, "m", "r", "c")
    assert (wanted.model_id, wanted.request_id, wanted.client) == ("m", "r", "c")
    assert (wanted.prompt, wanted.embed) == ("<s>a", False)
    assert (wanted.max_tokens, wanted.stops, wanted.streamed) == (3, ("b",), True)
    assert wanted.sampling.seed == 4


def test_chat_is_the_templates_to_write() -> None:
    """Messages reach the template: parts on lines of their own, `developer` as `system`."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": parts, "name": "Ann"},
    ]
    asked = read(ChatRequest, messages=messages, max_completion_tokens=5)
    [wanted] = conversion.chat_requests(asked, "m", "r")
    assert wanted.prompt == Chat(
        (
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "a\nb", "name": "Ann"},
        )
    )
    assert (wanted.max_tokens, wanted.streamed, wanted.embed) == (5, False, False)


def test_last_turn_of_the_assistant_stays_the_last() -> None:
    """A last message of the assistant stays last and unchanged."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Once "}]
    asked = read(ChatRequest, messages=messages)
    [wanted] = conversion.chat_requests(asked, "m", "r")
    assert wanted.prompt == Chat(tuple(messages))


def test_each_text_is_a_request_for_its_vector() -> None:
    """Each text is a separate request for its vector, in the order of the texts."""
    asked = read(EmbeddingRequest, input=["a", "b"])
    wanted = conversion.embedding_requests(asked, "m", "r", "c")
    assert [(one.prompt, one.embed, one.client) for one in wanted] == [
        ("a", True, "c"),
        ("b", True, "c"),
    ]


def test_nul_is_refused_wherever_it_is() -> None:
    """A NUL is refused: the engine's library would end the text there."""
    text = "a\0b"
    asked = read(CompletionRequest, prompt=text)
    chat = read(ChatRequest, messages=[{"role": "user", "content": text}])
    vectors = read(EmbeddingRequest, input=["a", text])
    with pytest.raises(InvalidRequestError) as refused:
        conversion.completion_requests(asked, "m", "r")
    assert refused.value.parameter == "prompt"
    with pytest.raises(InvalidRequestError) as refused:
        conversion.chat_requests(chat, "m", "r")
    assert refused.value.parameter == "messages[0].content"
    with pytest.raises(InvalidRequestError) as refused:
        conversion.embedding_requests(vectors, "m", "r")
    assert refused.value.parameter == "input"


def test_tool_history_reaches_the_template() -> None:
    """Calls and their results are the template's, which gets the arguments as an object."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "hm"},
        {"role": "tool", "content": "b", "tool_call_id": "1"},
    ]
    asked = read(ChatRequest, messages=messages, chat_template_kwargs={"thinks": True})
    [wanted] = conversion.chat_requests(asked, "m", "r")
    function = {"name": "f", "arguments": {"a": 1}}
    assert wanted.prompt == Chat(
        (
            {"role": "user", "content": "a"},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "hm",
                "tool_calls": [call | {"function": function}],
            },
            {"role": "tool", "content": "b", "tool_call_id": "1"},
        ),
        {"thinks": True},
    )


@pytest.mark.parametrize("arguments", ["[]", "{", "5"])
def test_arguments_of_a_call_are_an_object(arguments: str) -> None:
    """Arguments that are not a JSON object are refused with their message."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    history = {"role": "assistant", "tool_calls": [call]}
    asked = read(ChatRequest, messages=[history, {"role": "user", "content": "a"}])
    with pytest.raises(InvalidRequestError) as refused:
        conversion.chat_requests(asked, "m", "r")
    assert refused.value.parameter == "messages[0].tool_calls"


def test_request_remembers_what_was_sent() -> None:
    """An engine elsewhere gets the fields that were sent, without defaults, and each seed."""
    function = {"name": "f", "parameters": {"type": "object", "default": None}}
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.5,
        "seed": 7,
        "n": 2,
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "text"},
    }
    requests = conversion.chat_requests(reading.convert(body, ChatRequest), "m", "r")
    assert [request.sampling.asked for request in requests] == [
        {
            "temperature": 0.5,
            "seed": seed,
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "response_format": {"type": "text"},
        }
        for seed in (7, 8)
    ]
    plain = {"messages": body["messages"]}
    (request,) = conversion.chat_requests(reading.convert(plain, ChatRequest), "m", "r")
    assert request.sampling.asked == {}
