"""Pydantic AI, through chats and through the Responses API."""

from typing import Any, Literal

import pytest
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

from tests.clients.asked import API, MODEL, QUESTION, Weather


@pytest.fixture(params=[OpenAIChatModel, OpenAIResponsesModel])
def model(request: pytest.FixtureRequest) -> Any:
    provider = OpenAIProvider(base_url=API, api_key="none")
    return request.param(MODEL, provider=provider, settings=ModelSettings(max_tokens=400))


@pytest.mark.parametrize("output", [Weather, ToolOutput(Weather), NativeOutput(Weather)])
def test_answer_is_of_its_type(model: Any, output: Any) -> None:
    """An agent's answer has the type that was asked for, by a tool or by a schema."""
    answer = Agent(model, output_type=output, instructions="Be brief.").run_sync(QUESTION)
    assert isinstance(answer.output, Weather)


def test_tools_are_called_until_the_answer(model: Any) -> None:
    """With tools of its own, an agent still ends with an answer of its type."""

    def get_weather(city: Literal["Paris", "Oslo"]) -> str:
        """Return the weather of a city."""
        return f"It is sunny in {city}."

    answer = Agent(model, output_type=Weather, tools=[get_weather]).run_sync(QUESTION)
    assert isinstance(answer.output, Weather)


def test_text_is_streamed_as_it_is_answered_whole(model: Any) -> None:
    """A greedy text is the same, streamed and whole."""
    agent = Agent(model, model_settings=ModelSettings(max_tokens=12, temperature=0))
    streamed = "".join(agent.run_stream_sync("One").stream_text(delta=True))
    assert streamed == agent.run_sync("One").output


def test_streamed_answer_is_of_its_type(model: Any) -> None:
    """A streamed answer grows to one of the type that was asked for."""
    *_, last = Agent(model, output_type=Weather).run_stream_sync(QUESTION).stream_output()
    assert isinstance(last, Weather)
