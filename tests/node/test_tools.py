"""Tools and structured answers: OpenAI's client asks, and the engine says what the test chose."""

import functools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx2
import openai
import pytest
from pydantic import BaseModel
from trio.testing import MockClock, trio_test

from node.requests.request import Chat
from tests.node.memory_child import Children, MemoryChild
from tests.node.scripted import CLIENT_WARNINGS, HERMES, PARIS, ask_scripted, letters
from tests.node.test_owner import open_api

WEATHER: Final[Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Today's weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
USER: Final[Any] = [{"role": "user", "content": "Is it warm in Paris?"}]
ASKED: Final[dict[str, Any]] = {"model": "m", "messages": USER, "tools": [WEATHER]}

pytestmark = CLIENT_WARNINGS


@asynccontextmanager
async def open_client(
    children: Children,
) -> AsyncIterator[tuple[openai.AsyncOpenAI, MemoryChild]]:
    """Serve one model in memory to the client."""
    async with open_api(children) as (_, child, app):
        transport = httpx2.ASGITransport(app=app)
        async with (
            httpx2.AsyncClient(transport=transport) as http,
            openai.AsyncOpenAI(base_url="http://node/v1", api_key="none", http_client=http) as one,
        ):
            yield one, child


answered = functools.partial(ask_scripted, open_client)


@trio_test
async def test_call_is_an_object_of_the_client(
    autojump_clock: MockClock, children: Children
) -> None:
    """The template gets the tools, and the client a call."""
    del autojump_clock
    answer, command = await answered(
        children, lambda client: client.chat.completions.create(**ASKED), *letters(HERMES)
    )
    assert isinstance(command.prompt, Chat)
    assert command.prompt.tools == (WEATHER,)
    assert command.schema is None
    [choice] = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [call] = choice.message.tool_calls
    assert (call.type, call.function.name, call.function.arguments) == (
        "function",
        "get_weather",
        PARIS,
    )


@pytest.mark.parametrize("text", [HERMES, f"<think>Hm.</think>Let me see.\n{HERMES}\n{HERMES}"])
@trio_test
async def test_streamed_calls_add_up_to_the_whole(
    autojump_clock: MockClock, children: Children, text: str
) -> None:
    """The client's own accumulator makes the same message of the stream."""
    del autojump_clock
    whole, _ = await answered(
        children, lambda client: client.chat.completions.create(**ASKED), *letters(text)
    )

    async def stream(client: openai.AsyncOpenAI) -> Any:
        async with client.chat.completions.stream(**ASKED) as events:
            return await events.get_final_completion()

    streamed, _ = await answered(children, stream, *letters(text))
    for one, other in zip(streamed.choices, whole.choices, strict=True):
        assert one.finish_reason == other.finish_reason == "tool_calls"
        assert (one.message.content or "") == (other.message.content or "")
        calls = [call.function for call in one.message.tool_calls]
        assert [(call.name, call.arguments) for call in calls] == [
            (call.function.name, call.function.arguments) for call in other.message.tool_calls
        ]


@trio_test
async def test_named_tool_is_forced_by_its_schema(
    autojump_clock: MockClock, children: Children
) -> None:
    """A named function's schema is the answer's, and the answer its arguments."""
    del autojump_clock
    choice: Any = {"type": "function", "function": {"name": "get_weather"}}
    answer, command = await answered(
        children,
        lambda client: client.chat.completions.create(**ASKED, tool_choice=choice),
        *letters(PARIS),
    )
    assert command.schema == WEATHER["function"]["parameters"]
    [call] = answer.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", PARIS)
    assert answer.choices[0].finish_reason == "tool_calls"


@trio_test
async def test_required_tools_are_forced_by_a_list(
    autojump_clock: MockClock, children: Children
) -> None:
    """The schema of required calls is a list of calls, which the client gets as calls."""
    del autojump_clock
    listed = json.dumps([{"name": "get_weather", "arguments": {"city": "Paris"}}] * 2)
    answer, command = await answered(
        children,
        lambda client: client.chat.completions.create(**ASKED, tool_choice="required"),
        *letters(listed),
    )
    assert command.schema is not None
    assert command.schema["type"] == "array"
    calls = answer.choices[0].message.tool_calls
    assert [call.function.arguments for call in calls] == [PARIS, PARIS]


@trio_test
async def test_tools_that_must_not_be_called_are_left_out(
    autojump_clock: MockClock, children: Children
) -> None:
    """With the choice `none` the model does not know the tools, and its text is words."""
    del autojump_clock
    answer, command = await answered(
        children,
        lambda client: client.chat.completions.create(**ASKED, tool_choice="none"),
        *letters(HERMES),
    )
    assert isinstance(command.prompt, Chat)
    assert command.prompt.tools == ()
    assert answer.choices[0].message.content == HERMES


class Person(BaseModel):
    """What the answer must describe."""

    name: str
    age: int


@trio_test
async def test_structured_answer_is_parsed_by_the_client(
    autojump_clock: MockClock, children: Children
) -> None:
    """The client's `parse` sends a schema and gets its own type back."""
    del autojump_clock
    answer, command = await answered(
        children,
        lambda client: client.chat.completions.parse(
            model="m", messages=USER, response_format=Person
        ),
        *letters('{"name": "Ann", "age": 5}'),
    )
    assert command.schema is not None
    assert command.schema["properties"].keys() == {"name", "age"}
    assert answer.choices[0].message.parsed == Person(name="Ann", age=5)


@trio_test
async def test_thoughts_are_kept_apart(autojump_clock: MockClock, children: Children) -> None:
    """What the model thought is not part of what it said."""
    del autojump_clock
    answer, _ = await answered(
        children,
        lambda client: client.chat.completions.create(model="m", messages=USER),
        "<think>\nHm.",
        "\n</think>\n\nYes.",
    )
    message = answer.choices[0].message
    assert (message.content, message.reasoning_content) == ("Yes.", "Hm.")
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("wrong", "parameter"),
    [
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [WEATHER], "tool_choice": "other"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"a": 2**70}}}},
            "response_format",
        ),
    ],
)
@trio_test
async def test_wrong_tools_are_refused_by_name(
    autojump_clock: MockClock, children: Children, wrong: dict[str, Any], parameter: str
) -> None:
    """What contradicts itself or cannot be is refused with its place."""
    del autojump_clock
    async with open_client(children) as (client, _):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="m", messages=USER, extra_body=wrong)
        assert refused.value.param == parameter
