"""Instructor."""

from typing import Any

import instructor
import openai
import pytest

from tests.clients.asked import API, MODEL, QUESTION, Weather

ASKED: Any = {
    "model": MODEL,
    "messages": [{"role": "user", "content": QUESTION}],
    "max_tokens": 200,
    "max_retries": 0,
    "response_model": Weather,
}


@pytest.fixture(
    params=[instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA]
)
def client(request: pytest.FixtureRequest) -> Any:
    connection = openai.OpenAI(base_url=API, api_key="none", max_retries=0)
    return instructor.from_openai(connection, mode=request.param)


def test_answer_is_of_its_type(client: Any) -> None:
    """Each mode returns the type that was asked for, and the completion."""
    weather, completion = client.create_with_completion(**ASKED)
    assert isinstance(weather, Weather)
    assert completion.usage.completion_tokens


def test_partial_answers_are_streamed(client: Any) -> None:
    """A streamed answer grows to a whole one."""
    *_, last = client.create_partial(**ASKED)
    assert Weather.model_validate(last.model_dump())


def test_response_is_of_its_type() -> None:
    """The Responses API returns the type that was asked for."""
    connection = openai.OpenAI(base_url=API, api_key="none", max_retries=0)
    client = instructor.from_openai(connection, mode=instructor.Mode.RESPONSES_TOOLS)
    asked: Any = {"model": MODEL, "response_model": Weather, "max_retries": 0}
    assert isinstance(client.responses.create(input=QUESTION, **asked), Weather)
