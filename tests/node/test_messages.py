"""Anthropic's Messages API with its own client, of an engine that says what the test chose."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import anthropic
import httpx2
import pytest
import trio
from trio.testing import MockClock, trio_test

from node.engine.protocol import Tokenize, Tokenized
from node.requests.request import Chat
from tests.node.memory_child import Children, MemoryChild
from tests.node.scripted import CLIENT_WARNINGS, HERMES, PARIS, ask_scripted, letters
from tests.node.test_owner import open_api

WEATHER: Final[Any] = {
    "name": "get_weather",
    "description": "Today's weather",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
ASKED: Final[dict[str, Any]] = {
    "model": "m",
    "messages": [{"role": "user", "content": "Is it warm in Paris?"}],
    "max_tokens": 99,
}

pytestmark = CLIENT_WARNINGS


@asynccontextmanager
async def open_client(
    children: Children,
) -> AsyncIterator[tuple[anthropic.AsyncAnthropic, MemoryChild]]:
    """Serve one model in memory to the client."""
    async with open_api(children) as (_, child, app):
        transport = httpx2.ASGITransport(app=app)
        async with (
            httpx2.AsyncClient(transport=transport) as http,
            anthropic.AsyncAnthropic(
                base_url="http://node", api_key="none", http_client=http, max_retries=0
            ) as client,
        ):
            yield client, child


answered = functools.partial(ask_scripted, open_client)


async def stream(client: anthropic.AsyncAnthropic, **asked: Any) -> Any:
    async with client.messages.stream(**asked) as events:
        return await events.get_final_message()


@trio_test
async def test_message_is_answered(autojump_clock: MockClock, children: Children) -> None:
    """A system text and blocks reach the template; the answer is one text block."""
    del autojump_clock
    blocks = [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]
    asked = ASKED | {"messages": [{"role": "user", "content": blocks}], "system": "Be kind."}
    answer, command = await answered(
        children, lambda client: client.messages.create(**asked), "It ", "is."
    )
    assert command.prompt == Chat(
        ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"})
    )
    assert command.max_tokens == 99
    [block] = answer.content
    assert (block.type, block.text) == ("text", "It is.")
    assert (answer.role, answer.model, answer.stop_reason) == ("assistant", "m", "end_turn")
    usage = answer.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (2, 1, 2)


@pytest.mark.parametrize(
    "text", ["It is.", HERMES, f"<think>Hm.</think>Let me see.\n{HERMES}\n{HERMES}"]
)
@trio_test
async def test_stream_adds_up_to_the_whole(
    autojump_clock: MockClock, children: Children, text: str
) -> None:
    """The client's own accumulator makes the same message of the events."""
    del autojump_clock
    asked = ASKED | {"tools": [WEATHER]}
    whole, _ = await answered(
        children, lambda client: client.messages.create(**asked), *letters(text)
    )
    streamed, _ = await answered(children, lambda client: stream(client, **asked), *letters(text))
    strange = {"id", "signature"}
    assert [block.model_dump(exclude=strange) for block in streamed.content] == [
        block.model_dump(exclude=strange) for block in whole.content
    ]
    assert streamed.stop_reason == whole.stop_reason
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    if HERMES in text:
        assert whole.stop_reason == "tool_use"
        assert whole.content[-1].input == {"city": "Paris"}


@trio_test
async def test_history_of_calls_reaches_the_template(
    autojump_clock: MockClock, children: Children
) -> None:
    """Calls and results in blocks become turns as templates know them."""
    del autojump_clock
    use = {"type": "tool_use", "id": "1", "name": "get_weather", "input": {"city": "Paris"}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "9"}]}
    thought = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    messages = [
        *ASKED["messages"],
        {"role": "assistant", "content": [thought, {"type": "text", "text": "I look."}, use]},
        {"role": "user", "content": [result, {"type": "text", "text": "Well?"}]},
    ]
    asked = ASKED | {"messages": messages, "tools": [WEATHER]}
    _, command = await answered(children, lambda client: client.messages.create(**asked), "Warm.")
    assert isinstance(command.prompt, Chat)
    function = {"name": "get_weather", "arguments": {"city": "Paris"}}
    assert command.prompt.turns[1:] == (
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Hm.",
            "tool_calls": [{"id": "1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "9", "tool_call_id": "1"},
        {"role": "user", "content": "Well?"},
    )
    assert command.prompt.tools[0]["function"]["parameters"] == WEATHER["input_schema"]


@trio_test
async def test_tool_is_forced_by_its_schema(autojump_clock: MockClock, children: Children) -> None:
    """The choice of one tool forces its arguments."""
    del autojump_clock
    choice = {"type": "tool", "name": "get_weather"}
    asked = ASKED | {"tools": [WEATHER], "tool_choice": choice}
    answer, command = await answered(
        children, lambda client: client.messages.create(**asked), *letters(PARIS)
    )
    assert command.schema == WEATHER["input_schema"]
    assert answer.content[0].input == {"city": "Paris"}


@trio_test
async def test_stop_sequence_is_named(autojump_clock: MockClock, children: Children) -> None:
    """The answer says which sequence ended it."""
    del autojump_clock
    asked = ASKED | {"stop_sequences": ["END", "\n"]}
    answer, _ = await answered(
        children, lambda client: client.messages.create(**asked), "So", "END", "more"
    )
    assert (answer.content[0].text, answer.stop_reason) == ("So", "stop_sequence")
    assert answer.stop_sequence == "END"


@trio_test
async def test_tokens_of_a_message_are_counted(
    autojump_clock: MockClock, children: Children
) -> None:
    """Counting asks the engine for the tokens of the whole prompt, and is not inference."""
    del autojump_clock
    counted: list[int] = []
    async with (
        open_api(children) as (place, child, app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app)) as http,
        anthropic.AsyncAnthropic(base_url="http://node", api_key="x", http_client=http) as client,
        trio.open_nursery() as nursery,
    ):

        async def run() -> None:
            asked: Any = {"model": "m", "messages": ASKED["messages"]}
            counted.append((await client.messages.count_tokens(**asked)).input_tokens)

        nursery.start_soon(run)
        command = await child.hear()
        assert isinstance(command, Tokenize)
        await child.say(Tokenized(command.request, (1, 2, 3), "abc"))
        await child.finish(command.request)
    assert counted == [3]
    assert place.ends == []


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "a"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}],
                    }
                ]
            },
            "messages[0].content",
        ),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
    ],
)
@trio_test
async def test_wrong_message_is_refused_with_its_place(
    autojump_clock: MockClock, children: Children, wrong: dict[str, Any], place: str
) -> None:
    """Errors have Anthropic's form and name the field."""
    del autojump_clock
    async with open_client(children) as (client, _):
        with pytest.raises(anthropic.BadRequestError) as refused:
            await client.post("/v1/messages", body=ASKED | wrong, cast_to=object)
    body: Any = refused.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert f"`{place}`" in body["error"]["message"]


@trio_test
async def test_model_that_is_not_served_is_not_found(
    autojump_clock: MockClock, children: Children
) -> None:
    """An unknown model raises the client's own error."""
    del autojump_clock
    async with open_client(children) as (client, _):
        with pytest.raises(anthropic.NotFoundError, match="not served here"):
            await client.messages.create(**(ASKED | {"model": "other"}))
