"""Asks a node through a real client, with an engine that says what the test chose."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeVar

import pytest
import trio

from node.engine.protocol import Generate
from tests.node.memory_child import Children, MemoryChild

ClientT = TypeVar("ClientT")
Open = Callable[[Children], AbstractAsyncContextManager[tuple[ClientT, MemoryChild]]]
"""Serves one model in memory to a client."""

PARIS: Final = '{"city": "Paris"}'
HERMES: Final = f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}\n</tool_call>'
"""A call as Hermes and Qwen write it."""

CLIENT_WARNINGS: Final = [  # the clients drop the generators of their streams
    pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


async def ask_scripted(
    opened: Open[ClientT],
    children: Children,
    ask: Callable[[ClientT], Awaitable[Any]],
    *pieces: str,
) -> tuple[Any, Generate]:
    """Return what the client makes of an answer in these pieces, and the engine's command."""
    found: list[Any] = []
    async with opened(children) as (client, child), trio.open_nursery() as nursery:

        async def run() -> None:
            found.append(await ask(client))

        nursery.start_soon(run)
        command = await child.hear()
        assert isinstance(command, Generate)
        await child.say_tokens(command.request, *pieces)
        await child.finish(command.request)
    return found[0], command


def letters(text: str) -> list[str]:
    """Return a text in pieces of four characters."""
    return [text[at : at + 4] for at in range(0, len(text), 4)]
