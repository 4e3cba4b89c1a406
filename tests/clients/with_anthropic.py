"""Anthropic's client for Python."""

from typing import Any

import anthropic
import pytest

from tests.clients.asked import MODEL, NODE, QUESTION, Weather

MESSAGES: Any = [{"role": "user", "content": QUESTION}]
TOOLS: Any = [{"name": "get_weather", "input_schema": Weather.model_json_schema()}]


@pytest.fixture
def client() -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=NODE, api_key="none", max_retries=0)


def test_message_is_streamed_as_it_is_answered_whole(client: anthropic.Anthropic) -> None:
    """A greedy message has the same text and usage, streamed and whole."""
    asked: Any = {"model": MODEL, "messages": MESSAGES, "max_tokens": 12}
    asked["extra_body"] = {"temperature": 0}  # a field that this version no longer has
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        text = stream.get_final_text()
        usage = stream.get_final_message().usage
    assert [text] == [block.text for block in whole.content if block.type == "text"]
    assert usage.output_tokens == whole.usage.output_tokens == 12


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_streamed_use_of_a_tool_is_whole_and_answered(
    client: anthropic.Anthropic, choice: Any
) -> None:
    """A tool is used in a streamed message, which can be sent back with the results."""
    asked: Any = {"model": MODEL, "tools": TOOLS, "max_tokens": 300}
    with client.messages.stream(**asked, messages=MESSAGES, tool_choice=choice) as stream:
        message = stream.get_final_message()
    assert message.stop_reason == "tool_use"
    uses = [block for block in message.content if block.type == "tool_use"]
    assert all(Weather.model_validate(use.input) for use in uses)
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"} for use in uses]
    said: Any = {"role": "assistant", "content": message.content}
    history = [*MESSAGES, said, {"role": "user", "content": results}]
    assert client.messages.create(**asked | {"max_tokens": 8}, messages=history).content


def test_tokens_of_a_message_are_counted(client: anthropic.Anthropic) -> None:
    """The count is what a message's usage then says."""
    counted = client.messages.count_tokens(model=MODEL, messages=MESSAGES)
    used = client.messages.create(model=MODEL, messages=MESSAGES, max_tokens=1).usage
    assert counted.input_tokens == used.input_tokens + (used.cache_read_input_tokens or 0)
