"""What every protocol does with a request, before its conversion and after its answer."""

import re
import secrets
from typing import Final

from node.requests.answer import Answer, Delta, Ending

REQUEST_ID: Final = "X-Request-ID"
"""The header or metadata key of a request's id."""
_REQUEST_IDS: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""A valid request id; any other is replaced."""


def choose_request_id(given: str) -> str:
    """Return the caller's request id if it is valid, else a new one."""
    return given if _REQUEST_IDS.fullmatch(given) else secrets.token_hex(16)


async def read_whole(answer: Answer) -> tuple[str, Ending]:
    """Wait for an answer's end. Return its text and its ending.

    Raises:
        RequestError: The answer ended in an error.
    """
    deltas, ending = await read_deltas(answer)
    return "".join(delta.text for delta in deltas), ending


async def read_deltas(answer: Answer) -> tuple[list[Delta], Ending]:
    """Wait for an answer's end. Return its pieces and its ending; raises like `read_whole`."""
    deltas: list[Delta] = []
    while isinstance(received := await answer.receive(), Delta):
        deltas.append(received)
    return deltas, received
