"""Every request to the API has an owner: the block around its whole answer, response included.

What a handler takes from the rest of the node for one request, it enters into the owner. The owner
ends with the request, whatever ends it: a client that leaves before the response starts gives up
what the handler had asked for, as one that leaves in the middle does.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final, cast

from node.api.edge.asgi import Application, Receive, Scope, Send

_OWNER: Final = "distributed_llm.owner"
"""Key of the ASGI scope."""


def own(application: Application) -> Application:
    """Give each request an owner."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        with ExitStack() as owner:
            scope[_OWNER] = owner
            await application(scope, receive, send)

    return wrapped


def owner_of(scope: Mapping[str, object]) -> ExitStack:
    """Return the owner of a request."""
    return cast(ExitStack, scope[_OWNER])
