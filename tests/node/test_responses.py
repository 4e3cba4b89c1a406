"""OpenAI's Responses API with its own client, of an engine that says what the test chose."""

from typing import Any, Final

import openai
import pytest
from pydantic import BaseModel
from trio.testing import MockClock, trio_test

from node.requests.request import Chat
from tests.node.memory_child import Children
from tests.node.scripted import CLIENT_WARNINGS, HERMES, PARIS, letters
from tests.node.test_tools import answered, open_client

WEATHER: Final[Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "Today's weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
ASKED: Final[dict[str, Any]] = {"model": "m", "input": "Is it warm in Paris?"}

pytestmark = CLIENT_WARNINGS


async def stream(client: openai.AsyncOpenAI, **asked: Any) -> Any:
    async with client.responses.stream(**asked) as events:
        numbers = [event.sequence_number async for event in events]
        assert numbers == list(range(len(numbers)))
        return await events.get_final_response()


def plain(item: Any) -> Any:
    """Return an item without its ids and what the client adds to it."""
    kept = item.model_dump(exclude={"id", "call_id", "parsed_arguments", "status"})
    for part in kept.get("content") or ():
        part.pop("parsed", None)
    return kept


@trio_test
async def test_input_is_answered(autojump_clock: MockClock, children: Children) -> None:
    """Instructions and input reach the template; the text is the answer's."""
    del autojump_clock
    asked = ASKED | {"instructions": "Be kind.", "max_output_tokens": 9}
    answer, command = await answered(
        children, lambda client: client.responses.create(**asked), "It ", "is."
    )
    assert command.prompt == Chat(
        (
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Is it warm in Paris?"},
        )
    )
    assert command.max_tokens == 9
    assert (answer.output_text, answer.status, answer.model) == ("It is.", "completed", "m")
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (3, 2, 5)
    assert usage.input_tokens_details.cached_tokens == 1


@pytest.mark.parametrize(
    "text", ["It is.", HERMES, f"<think>Hm.</think>Let me see.\n{HERMES}\n{HERMES}", ""]
)
@trio_test
async def test_stream_adds_up_to_the_whole(
    autojump_clock: MockClock, children: Children, text: str
) -> None:
    """The client's own accumulator makes the same items of the events."""
    del autojump_clock
    asked = ASKED | {"tools": [WEATHER]}
    whole, _ = await answered(
        children, lambda client: client.responses.create(**asked), *letters(text)
    )
    streamed, _ = await answered(children, lambda client: stream(client, **asked), *letters(text))
    assert [plain(item) for item in streamed.output] == [plain(item) for item in whole.output]
    assert streamed.usage == whole.usage
    if HERMES in text:
        assert (whole.output[-1].name, whole.output[-1].arguments) == ("get_weather", PARIS)


@trio_test
async def test_items_of_an_answer_can_be_sent_back(
    autojump_clock: MockClock, children: Children
) -> None:
    """Thoughts, words and calls are one turn, and results the following ones."""
    del autojump_clock
    tools: dict[str, Any] = {"tools": [WEATHER]}
    asked = ASKED | tools
    text = f"<think>Hm.</think>Let me see.\n{HERMES}"
    first, _ = await answered(
        children, lambda client: client.responses.create(**asked), *letters(text)
    )
    call = first.output[-1]
    history = [
        {"role": "user", "content": ASKED["input"]},
        *(item.model_dump(exclude_unset=True) for item in first.output),
        {"type": "function_call_output", "call_id": call.call_id, "output": "9 degrees"},
    ]
    again = ASKED | {"input": history, "store": False} | tools
    _, command = await answered(children, lambda client: client.responses.create(**again), "No.")
    assert isinstance(command.prompt, Chat)
    function = {"name": "get_weather", "arguments": {"city": "Paris"}}
    assert command.prompt.turns[1:] == (
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "Hm.",
            "tool_calls": [{"id": call.call_id, "type": "function", "function": function}],
        },
        {"role": "tool", "content": "9 degrees", "tool_call_id": call.call_id},
    )


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
        lambda client: client.responses.parse(**ASKED, text_format=Person),
        *letters('{"name": "Ann", "age": 5}'),
    )
    assert command.schema is not None
    assert command.schema["properties"].keys() == {"name", "age"}
    assert answer.output_parsed == Person(name="Ann", age=5)


@trio_test
async def test_named_tool_is_forced(autojump_clock: MockClock, children: Children) -> None:
    """The choice of one function forces its arguments."""
    del autojump_clock
    choice: Any = {"type": "function", "name": "get_weather"}
    asked = ASKED | {"tools": [WEATHER], "tool_choice": choice}
    answer, command = await answered(
        children, lambda client: client.responses.create(**asked), *letters(PARIS)
    )
    assert command.schema == WEATHER["parameters"]
    assert answer.output[0].arguments == PARIS


@pytest.mark.parametrize(
    ("wrong", "parameter"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "input[0].type"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "function_call_output", "output": "a"}]}, "input[0].call_id"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].type",
        ),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"input": []}, "input"),
    ],
)
@trio_test
async def test_what_needs_state_or_is_wrong_is_refused_by_name(
    autojump_clock: MockClock, children: Children, wrong: dict[str, Any], parameter: str
) -> None:
    """Nothing is stored, and each unsupported field is named."""
    del autojump_clock
    async with open_client(children) as (client, _):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(**ASKED, extra_body=wrong)
    assert refused.value.param == parameter
