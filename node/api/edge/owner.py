"""Every API request has an owner: a block around the whole request, including its response.

A handler enters everything that it takes from the node for a request into the owner. The owner ends
with the request, for any reason: a client that disconnects before the response starts releases what
the handler requested, like one that disconnects in the middle.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final, cast

from node.api.edge.asgi import Application, Receive, Scope, Send

_OWNER: Final = "distributed_llm.owner"
"""ASGI scope key."""


def own(application: Application) -> Application:
    """Open an owner for each request."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        with ExitStack() as owner:
            scope[_OWNER] = owner
            await application(scope, receive, send)

    return wrapped


def owner_of(scope: Mapping[str, object]) -> ExitStack:
    """Return the owner of a request."""
    return cast(ExitStack, scope[_OWNER])
