"""OpenAI's client for Python."""

from typing import Any

import openai
import pytest

from tests.clients.asked import API, MODEL, QUESTION, Weather

MESSAGES: Any = [{"role": "user", "content": QUESTION}]
TOOLS: Any = [openai.pydantic_function_tool(Weather, name="get_weather")]
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture
def client() -> openai.OpenAI:
    return openai.OpenAI(base_url=API, api_key="none", max_retries=0)


def test_structured_answer_is_parsed_whole_and_streamed(client: openai.OpenAI) -> None:
    """An answer is parsed to the type that was asked for, also as it is streamed."""
    asked: Any = {"model": MODEL, "messages": MESSAGES, "response_format": Weather, "seed": 1}
    whole = client.chat.completions.parse(**asked).choices[0].message
    assert isinstance(whole.parsed, Weather)
    with client.chat.completions.stream(**asked) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == whole.parsed


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_streamed_call_is_parsed_and_its_result_answered(
    client: openai.OpenAI, choice: Any
) -> None:
    """A streamed call is parsed; the message that calls can be sent back."""
    asked: Any = {"model": MODEL, "tools": TOOLS}
    with client.chat.completions.stream(**asked, messages=MESSAGES, tool_choice=choice) as stream:
        message = stream.get_final_completion().choices[0].message
    calls = message.tool_calls or []
    assert isinstance(calls[0].function.parsed_arguments, Weather)
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
    for said in (message, message.model_dump()):
        history: Any = [*MESSAGES, said, *results]
        # The model's template has no format of calls, which `auto` with strict functions needs.
        asked |= {"messages": history, "tool_choice": "none", "max_tokens": 8}
        answer = client.chat.completions.create(**asked)
        assert answer.choices[0].message.content


def test_response_is_streamed_as_it_is_answered_whole(client: openai.OpenAI) -> None:
    """A greedy response has the same text, streamed and whole."""
    asked: Any = {"model": MODEL, "input": QUESTION, "max_output_tokens": 12, "temperature": 0}
    with client.responses.stream(**asked) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(deltas) == client.responses.create(**asked).output_text


def test_response_is_parsed_and_sent_back(client: openai.OpenAI) -> None:
    """A response is parsed; its items are the next input."""
    asked: Any = {"model": MODEL, "max_output_tokens": 200}
    parsed = client.responses.parse(**asked, input=QUESTION, text_format=Weather)
    assert isinstance(parsed.output_parsed, Weather)
    for items in (parsed.output, [item.model_dump() for item in parsed.output]):
        history: Any = [*MESSAGES, *items, *MESSAGES]
        assert client.responses.create(**asked, input=history).output_text
