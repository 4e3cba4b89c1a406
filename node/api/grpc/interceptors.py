"""What every call needs: its request id, its one event, and its refusal."""

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
from shared.events.api import RpcFinished
from shared.events.event import Event

Context = RequestContext[Any, Any]

SCOPE: ContextVar[Scope] = ContextVar("scope")
"""The ASGI scope of the current call."""

NURSERY: ContextVar[trio.Nursery] = ContextVar("nursery")
"""Runs the tasks of the current call, and ends with it."""

_DEADLINE_ROUNDING_MS: Final = 50.0
"""gRPC's core rounds deadlines up when it sends them, and cancels by its own clock."""

_LEAD_SECONDS: Final = 0.01
"""A generation's deadline is this much before its call's, so that it ends as a timeout."""


class AccountForCalls(MetadataInterceptor[float]):
    """Sets a call's request id and emits its one `RpcFinished`, however the call ends.

    Args:
        emit: Receives the events.
    """

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit

    async def on_start(self, ctx: Context) -> float:
        """Return the start time of the call."""
        SCOPE.get()[ROUTE] = COUNTED_ELSEWHERE
        given = ctx.request_headers.get(REQUEST_ID, "")
        ctx.response_headers[REQUEST_ID] = choose_request_id(given)
        return trio.current_time()

    async def on_end(self, began: float, ctx: Context, error: Exception | None, /) -> None:
        """Emit the event, and translate an error for the caller.

        Raises:
            ConnectError: The library sends it in place of the error.
        """
        refusal = None if error is None else as_connect_error(error)
        if refusal is not None and refusal.code is Code.CANCELED and is_out_of_time(ctx):
            refusal = ConnectError(Code.DEADLINE_EXCEEDED, "the call's deadline has passed")
        seconds = trio.current_time() - began
        self._emit(RpcFinished(method_of(ctx), canonical(refusal), seconds))
        if error is not None and refusal is not None:
            describe(error, ctx.response_trailers)
            if refusal is not error:
                raise refusal from error


def method_of(ctx: Context) -> str:
    """Return the call's method, as `package.Service/Method`."""
    return f"{ctx.method.service_name}/{ctx.method.name}"


def request_id(ctx: Context) -> str:
    """Return the call's request id."""
    return ctx.response_headers[REQUEST_ID]


def client_of() -> str:
    """Return the client that takes turns in the queue: its key, else its address."""
    scope = SCOPE.get()
    address, *_ = scope.get("client") or ("",)
    return str(scope.get(CLIENT) or address)


def deadline_seconds(ctx: Context) -> float | None:
    """Return how long the call may take, in seconds; None for no limit."""
    if ctx.timeout_ms is None:
        return None
    return max(0.0, ctx.timeout_ms / 1e3 - _LEAD_SECONDS)


def is_out_of_time(ctx: Context) -> bool:
    """Return whether a caller disconnected because its deadline had passed."""
    return ctx.timeout_ms is not None and ctx.timeout_ms < _DEADLINE_ROUNDING_MS


class Refuse(MetadataInterceptor[None]):
    """Refuses a call that was found to be unauthorized before it reached its service."""

    async def on_start(self, ctx: Context) -> None:
        """Accept the call.

        Raises:
            RequestError: The call is refused.
        """
        del ctx
        if (error := SCOPE.get().get(REFUSED)) is not None:
            raise error
