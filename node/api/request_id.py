"""What every protocol does with a request, around its conversion and its answer."""

import re
import secrets
from typing import Final

from node.requests.answer import Answer, Delta, Ending

REQUEST_ID: Final = "X-Request-ID"
"""The header, or key of metadata, that names a request."""
_REQUEST_IDS: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""An id that a caller may give; for any other one is made up."""


def choose_request_id(given: str) -> str:
    """Take the caller's id for a request if it is a good one, else make one up."""
    return given if _REQUEST_IDS.fullmatch(given) else secrets.token_hex(16)


async def read_whole(answer: Answer) -> tuple[str, Ending]:
    """Wait for an answer's end; return its text and how it ended.

    Raises:
        RequestError: The answer ended in an error.
    """
    pieces: list[str] = []
    while isinstance(received := await answer.receive(), Delta):
        pieces.append(received.text)
    return "".join(pieces), received
