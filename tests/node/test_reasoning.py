"""Thoughts that the prompt itself has opened are kept apart, in every protocol."""

import functools
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, trio_test

from node.engine.chat import opens_thoughts
from node.engine.protocol import Evaluated, Generate, Sampled, ThoughtsOpened
from node.requests.request import Chat
from tests.node import test_messages, test_tools
from tests.node.memory_child import Children
from tests.node.scripted import CLIENT_WARNINGS

pytestmark = CLIENT_WARNINGS

PIECES: Final = ("Hm", ".", "</think>", "\n\n", "Yes", ".")
USER: Final[Any] = [{"role": "user", "content": "x"}]


async def answered(children: Children, ask: Any, *, opened: Any) -> tuple[Any, Generate]:
    """Return what the client makes of an answer that begins in thoughts, and the command."""
    found: list[Any] = []
    async with opened(children) as (client, child), trio.open_nursery() as nursery:

        async def run() -> None:
            found.append(await ask(client))

        nursery.start_soon(run)
        command = await child.hear()
        assert isinstance(command, Generate)
        sampled = [Sampled(command.request, 5, piece.encode()) for piece in PIECES]
        await child.say(ThoughtsOpened(command.request), Evaluated(command.request, 3, 3, 0))
        await child.say(*sampled)
        await child.finish(command.request)
    return found[0], command


by_openai: Final = functools.partial(answered, opened=test_tools.open_client)
by_anthropic: Final = functools.partial(answered, opened=test_messages.open_client)


@trio_test
async def test_chat_tells_thoughts_from_words(
    autojump_clock: MockClock, children: Children
) -> None:
    """Whole and streamed, with the tokens that the thoughts took."""
    del autojump_clock
    asked: dict[str, Any] = {"model": "m", "messages": USER}
    whole, _ = await by_openai(children, lambda one: one.chat.completions.create(**asked))
    message = whole.choices[0].message
    assert (message.reasoning_content, message.content) == ("Hm.", "Yes.")
    assert whole.usage.completion_tokens_details.reasoning_tokens == 2

    async def stream(client: Any) -> Any:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        return [chunk async for chunk in await client.chat.completions.create(**asked, **options)]

    chunks, _ = await by_openai(children, stream)
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert "".join(getattr(one, "reasoning_content", None) or "" for one in deltas) == "Hm."
    assert "".join(one.content or "" for one in deltas) == "Yes."
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 2


@trio_test
async def test_response_tells_thoughts_from_words(
    autojump_clock: MockClock, children: Children
) -> None:
    """A response has an item of each, whole and streamed."""
    del autojump_clock
    asked: dict[str, Any] = {"model": "m", "input": "x"}

    async def stream(client: Any) -> Any:
        async with client.responses.stream(**asked) as events:
            return await events.get_final_response()

    for ask in (lambda one: one.responses.create(**asked), stream):
        found, _ = await by_openai(children, ask)
        assert [item.type for item in found.output] == ["reasoning", "message"]
        assert found.output_text == "Yes."
        assert found.usage.output_tokens_details.reasoning_tokens == 2


@trio_test
async def test_message_tells_thoughts_from_words(
    autojump_clock: MockClock, children: Children
) -> None:
    """A message has a block of each, whole and streamed."""
    del autojump_clock
    asked: dict[str, Any] = {"model": "m", "messages": USER, "max_tokens": 9}

    async def stream(client: Any) -> Any:
        async with client.messages.stream(**asked) as events:
            return await events.get_final_message()

    for ask in (lambda one: one.messages.create(**asked), stream):
        found, _ = await by_anthropic(children, ask)
        thinking, text = found.content
        assert (thinking.thinking, text.text) == ("Hm.", "Yes.")


@pytest.mark.parametrize(
    ("effort", "options"),
    [
        ("high", {"reasoning_effort": "high"}),
        ("none", {"reasoning_effort": "none", "enable_thinking": False}),
        (None, {}),
    ],
)
@trio_test
async def test_effort_reaches_the_template(
    effort: Any, options: dict[str, Any], autojump_clock: MockClock, children: Children
) -> None:
    """The effort is a name for the template; no effort turns thoughts off."""
    del autojump_clock
    _, command = await by_openai(
        children,
        lambda one: one.chat.completions.create(model="m", messages=USER, reasoning_effort=effort),
    )
    assert isinstance(command.prompt, Chat)
    assert command.prompt.options == options


@pytest.mark.parametrize(
    ("text", "opens"),
    [
        ("<|assistant|><think>\n", True),
        ("[THINK]", True),
        ("<think>\n\n</think>\n\n", False),
        ("say <think> please", False),
    ],
)
def test_end_of_the_prompt_tells_whether_thoughts_are_open(
    text: str,
    opens: bool,  # noqa: FBT001
) -> None:
    """Only a mark at the very end opens them."""
    assert opens_thoughts(text) is opens
