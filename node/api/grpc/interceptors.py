"""What happens to every call: its request id, its one event, and its refusal."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

import trio
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.interceptor import MetadataInterceptor
from connectrpc.request import RequestContext

from node.api.edge.asgi import CLIENT, COUNTED_ELSEWHERE, REFUSED, ROUTE, Scope
from node.api.grpc.errors import as_connect_error, canonical, describe
from node.api.request_id import REQUEST_ID, choose_request_id
from shared.events import Event, RpcFinished

Context = RequestContext[Any, Any]

SCOPE: ContextVar[Scope] = ContextVar("scope")
"""The ASGI scope of the call in hand."""

_DEADLINE_ROUNDING_MS: Final = 50.0
"""gRPC's core rounds a deadline up before it sends it, and cancels when its own clock is there."""

_LEAD_SECONDS: Final = 0.01
"""By how much a generation's deadline is before its call's, so that it ends as one out of time."""


class AccountForCalls(MetadataInterceptor[float]):
    """Gives a call its request id and emits its one `RpcFinished`, whatever its end.

    Args:
        emit: Takes the events.
    """

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit

    async def on_start(self, ctx: Context) -> float:
        """Note when it began."""
        SCOPE.get()[ROUTE] = COUNTED_ELSEWHERE
        given = ctx.request_headers.get(REQUEST_ID, "")
        ctx.response_headers[REQUEST_ID] = choose_request_id(given)
        return trio.current_time()

    async def on_end(self, began: float, ctx: Context, error: Exception | None, /) -> None:
        """Emit the event, and give an error the form that its caller sees.

        Raises:
            ConnectError: Which the library then sends in the place of the error.
        """
        refusal = None if error is None else as_connect_error(error)
        if refusal is not None and refusal.code is Code.CANCELED and _is_out_of_time(ctx):
            refusal = ConnectError(Code.DEADLINE_EXCEEDED, "the call's deadline is over")
        method = f"{ctx.method.service_name}/{ctx.method.name}"
        seconds = trio.current_time() - began
        self._emit(RpcFinished(method, canonical(refusal), seconds))
        if error is not None and refusal is not None:
            describe(error, ctx.response_trailers)
            if refusal is not error:
                raise refusal from error


def request_id(ctx: Context) -> str:
    """Give the id that the call was given."""
    return ctx.response_headers[REQUEST_ID]


def client_of() -> str:
    """Say for whom the call in hand waits its turn: the key's owner, else the address."""
    scope = SCOPE.get()
    address, *_ = scope.get("client") or ("",)
    return str(scope.get(CLIENT) or address)


def deadline_seconds(ctx: Context) -> float | None:
    """Tell how long the call's answer may take; None for as long as it may."""
    if ctx.timeout_ms is None:
        return None
    return max(0.0, ctx.timeout_ms / 1e3 - _LEAD_SECONDS)


class Refuse(MetadataInterceptor[None]):
    """Refuses what was found to be refused before it was known to be a call."""

    async def on_start(self, ctx: Context) -> None:
        """Let the call in.

        Raises:
            RequestError: It was refused.
        """
        del ctx
        if (error := SCOPE.get().get(REFUSED)) is not None:
            raise error


def _is_out_of_time(ctx: Context) -> bool:
    """Whether a caller that left did so because its deadline was over."""
    return ctx.timeout_ms is not None and ctx.timeout_ms < _DEADLINE_ROUNDING_MS
