"""Reads how many tokens a llama-server holds in its slots, with those kept for later prompts."""

from collections.abc import Callable
from typing import Final

import msgspec
import trio

from node.engine.llama_cpp.connection import call
from node.engine.llama_cpp.errors import EngineLostError

_SECONDS: Final = 1.0
"""As often as the node samples its engines."""


class _Slot(msgspec.Struct, frozen=True):
    id_task: int | None = None
    """Absent until the slot's first request."""
    n_prompt_tokens: int | None = None
    """Tokens in the slot: of the prompt and of what was drawn after it."""


_decoder: Final = msgspec.json.Decoder(list[_Slot])


def count_held(body: bytes) -> int | None:
    """Return the tokens in all slots from an answer of `/slots`; None if they are missing."""
    try:
        slots = [slot for slot in _decoder.decode(body) if slot.id_task is not None]
    except msgspec.DecodeError:
        return None
    counts = [slot.n_prompt_tokens for slot in slots]
    return None if None in counts else sum(filter(None, counts))


async def watch_held(
    socket: str, has_worked: Callable[[], bool], note: Callable[[int | None], None]
) -> None:
    """Note the tokens once a second while there is work, and once after it. Runs until cancelled.

    Ends earlier if the server does not report them.

    Args:
        socket: The path of the server's socket.
        has_worked: Returns whether a request has run since its last call.
        note: Takes the tokens in all slots.
    """
    worked_before = True
    while True:
        worked = has_worked()
        if worked or worked_before:
            held = await _ask(socket)
            note(held)
            if held is None:
                return
        worked_before = worked
        await trio.sleep(_SECONDS)


async def _ask(socket: str) -> int | None:
    try:
        _, body = await call(socket, "/slots")
    except EngineLostError:  # its process's end is noticed elsewhere
        return None
    return count_held(body)
