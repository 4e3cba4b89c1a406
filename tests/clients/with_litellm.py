"""LiteLLM: OpenAI's API, vLLM's, and Anthropic's, as its users choose the provider."""

from typing import Any

import anyio
import litellm
import pytest

from tests.clients.asked import API, EMBEDDER, MODEL, NODE, QUESTION, REAL, Weather

OPENAI: Any = {"model": f"openai/{MODEL}", "api_base": API, "api_key": "none", "max_retries": 0}
VLLM: Any = OPENAI | {"model": f"hosted_vllm/{MODEL}"}
ANTHROPIC: Any = OPENAI | {"model": f"anthropic/{MODEL}", "api_base": NODE}
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
SCHEMA: Any = Weather.model_json_schema()
TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}

providers = pytest.mark.parametrize("provider", [OPENAI, VLLM, ANTHROPIC])


@providers
def test_chat_is_streamed_as_it_is_answered_whole(provider: Any) -> None:
    """A greedy chat has the same text and usage, streamed and whole."""
    asked: Any = provider | {"messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    whole = litellm.completion(**asked)
    options = {"include_usage": True}
    chunks = list(litellm.completion(**asked, stream=True, stream_options=options))
    streamed = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert streamed.choices[0].message.content == whole.choices[0].message.content
    assert streamed.usage.completion_tokens == whole.usage.completion_tokens == 12


@providers
@pytest.mark.parametrize(("choice", "stream"), [("required", False), (NAMED, True)])
def test_result_of_a_called_tool_is_answered(provider: Any, choice: Any, *, stream: bool) -> None:
    """A tool is called, and its results are answered."""
    asked: Any = provider | {"tools": TOOLS, "max_tokens": 300}
    called = litellm.completion(**asked, messages=MESSAGES, tool_choice=choice, stream=stream)
    if stream:
        called = litellm.stream_chunk_builder(list(called), messages=MESSAGES)
    message = called.choices[0].message
    assert called.choices[0].finish_reason == "tool_calls"
    assert Weather.model_validate_json(message.tool_calls[0].function.arguments)
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls
    ]
    history = [*MESSAGES, message, *results]
    assert litellm.completion(**asked, messages=history, tool_choice="none").choices[0].message


@providers
def test_structured_answer_is_of_its_type(provider: Any) -> None:
    """A response format is followed."""
    asked: Any = provider | {"messages": MESSAGES, "max_tokens": 300}
    answer = litellm.completion(**asked, response_format=Weather)
    assert Weather.model_validate_json(answer.choices[0].message.content)


def test_completion_and_vectors() -> None:
    """A greedy completion is the same, streamed and whole; texts have vectors."""
    asked: Any = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
    asked |= OPENAI | {"model": f"text-completion-openai/{REAL}"}
    chunks = litellm.text_completion(**asked, stream=True)
    text = "".join(chunk.choices[0].text or "" for chunk in chunks)
    assert text == litellm.text_completion(**asked).choices[0].text
    embedder: Any = OPENAI | {"model": f"openai/{EMBEDDER}"}
    assert len(litellm.embedding(**embedder, input=["hello", "world"]).data) == 2


def test_responses_are_answered_and_streamed() -> None:
    """The Responses API answers, streams, and calls functions."""
    asked: Any = OPENAI | {"input": QUESTION, "max_output_tokens": 300, "temperature": 0}
    whole = litellm.responses(**asked)
    *_, last = litellm.responses(**asked, stream=True)
    assert last.response.output[0].content[0].text == whole.output_text
    tool = {"type": "function", "name": "get_weather", "parameters": SCHEMA}
    called = litellm.responses(**asked, tools=[tool], tool_choice="required")
    assert Weather.model_validate_json(called.output[0].arguments)


@pytest.mark.parametrize("provider", [OPENAI, ANTHROPIC])
def test_messages_are_answered(provider: Any) -> None:
    """Anthropic's Messages API answers and calls tools; streams need LiteLLM's whole proxy."""
    asked: Any = provider | {"messages": MESSAGES, "max_tokens": 300}
    tool = {"name": "get_weather", "input_schema": SCHEMA}

    async def run() -> None:
        answer = await litellm.anthropic_messages(**asked)
        assert answer["content"][0]["text"]
        choice = {"type": "any"}
        called = await litellm.anthropic_messages(**asked, tools=[tool], tool_choice=choice)
        assert Weather.model_validate(called["content"][0]["input"])

    anyio.run(run)
