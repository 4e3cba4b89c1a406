"""LangChain's `langchain-openai`."""

from typing import Any, Literal

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

from tests.clients.asked import API, EMBEDDER, MODEL, ONLY_CLOSING, QUESTION, REAL, Weather

CONNECTION: Any = {"base_url": API, "api_key": "none", "max_retries": 0}


@pytest.fixture
def chat() -> Any:
    return ChatOpenAI(**CONNECTION, model=MODEL, max_tokens=200, stream_usage=True)


def _get_weather(city: Literal["Paris", "Oslo"], days: Literal[1, 2, 3]) -> str:
    """Return the weather of a city."""
    return f"{city}: sunny for {days} days"


get_weather: Any = tool("get_weather")(_get_weather)


@pytest.mark.parametrize("choice", ["get_weather", "required"])
def test_result_of_a_called_tool_is_answered(chat: Any, choice: str) -> None:
    """A bound tool is called, and its results are answered."""
    called = chat.bind_tools([get_weather], tool_choice=choice).invoke(QUESTION)
    results = [get_weather.invoke(call) for call in called.tool_calls]
    assert results
    history = [HumanMessage(QUESTION), called, *results]
    answer = chat.bind_tools([get_weather], tool_choice="none").invoke(history)
    assert answer.content
    assert answer.usage_metadata["output_tokens"] == 200


def test_streamed_call_is_whole_in_the_end(chat: Any) -> None:
    """The chunks of a streamed call add up to one call."""
    first, *others = chat.bind_tools([get_weather], tool_choice="get_weather").stream(QUESTION)
    (call,) = sum(others, start=first).tool_calls
    assert get_weather.invoke(call).content.endswith("days")


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
@pytest.mark.parametrize("strict", [None, True])
def test_structured_answer_is_of_its_type(chat: Any, method: str, *, strict: bool | None) -> None:
    """Both methods with a schema return the type that was asked for."""
    structured = chat.with_structured_output(Weather, method=method, strict=strict)
    assert isinstance(structured.invoke(QUESTION), Weather)


def test_json_mode_answers_an_object(chat: Any) -> None:
    """`json_mode` returns an object."""
    structured = chat.with_structured_output({"title": "any"}, method="json_mode")
    assert structured.invoke(QUESTION, logit_bias=ONLY_CLOSING) == {}


def test_batch_and_stream_have_the_same_answers(chat: Any) -> None:
    """A batch answers each question; a stream has the text and usage of a whole answer."""
    short = chat.bind(max_tokens=12, temperature=0)
    answers = short.batch(["One", "Two"])
    assert [answer.usage_metadata["output_tokens"] for answer in answers] == [12, 12]
    chunks = list(short.stream("One"))
    assert "".join(chunk.content for chunk in chunks) == short.invoke("One").content
    assert [chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata]


def test_completion_is_streamed_as_it_is_answered_whole() -> None:
    """A greedy completion has the same text, streamed and whole."""
    model = OpenAI(**CONNECTION, model=REAL, max_tokens=8, temperature=0)
    assert "".join(model.stream("Once upon a time")) == model.invoke("Once upon a time")


def test_documents_become_vectors() -> None:
    """Documents and queries have vectors; `check_embedding_ctx_length` needs OpenAI's tokens."""
    model = OpenAIEmbeddings(**CONNECTION, model=EMBEDDER, check_embedding_ctx_length=False)
    first, second = model.embed_documents(["hello", "world"])
    assert first != second
    assert model.embed_query("hello") == pytest.approx(first, abs=1e-4)


def test_responses_are_answered_called_and_structured() -> None:
    """The same through `/v1/responses`."""
    chat = ChatOpenAI(**CONNECTION, model=MODEL, max_tokens=200, use_responses_api=True)
    asked: Any = {"temperature": 0, "max_tokens": 12}
    whole = chat.invoke(QUESTION, **asked).text
    assert "".join(chunk.text for chunk in chat.stream(QUESTION, **asked)) == whole
    (call,) = chat.bind_tools([get_weather], tool_choice="get_weather").invoke(QUESTION).tool_calls
    assert get_weather.invoke(call).content.endswith("days")
    structured = chat.with_structured_output(Weather, method="json_schema")
    assert isinstance(structured.invoke(QUESTION), Weather)
