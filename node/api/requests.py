"""What every protocol does with a request, around its conversion and its answer."""

import re
import secrets
from typing import Final

from node.engine.protocol import Described
from node.errors import UnavailableError
from node.inference.generation import Delta, Ending, Generation
from node.inference.scheduler import Scheduler

REQUEST_ID: Final = "X-Request-ID"
"""The header, or key of metadata, that names a request."""
_REQUEST_IDS: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""An id that a caller may give; for any other one is made up."""


def choose_request_id(given: str) -> str:
    """Take the caller's id for a request if it is a good one, else make one up."""
    return given if _REQUEST_IDS.fullmatch(given) else secrets.token_hex(16)


async def wait_described(scheduler: Scheduler, model_id: str) -> Described:
    """Give what is known of a model, which is loaded if it never was.

    Raises:
        ModelNotFoundError: No such model is served here.
        UnavailableError: It cannot be loaded.
    """
    engine = scheduler.find(model_id).engine
    if engine.described is None:  # before the first load only: a template outlives its child
        engine.want()
        await engine.wait_ready()
    if engine.described is None:
        raise UnavailableError(f"model {model_id} is not loaded yet: try again")
    return engine.described


async def read_whole(generation: Generation) -> tuple[str, Ending]:
    """Wait for an answer's end and leave it.

    Raises:
        RequestError: The answer ended in an error.
    """
    pieces: list[str] = []
    try:
        while isinstance(received := await generation.receive(), Delta):
            pieces.append(received.text)
        return "".join(pieces), received
    finally:
        generation.close()
