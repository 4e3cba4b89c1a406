"""Answers other nodes: the route by which a node forwards a caller's request."""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Final

from quart import Response, request
from quart_trio import QuartTrio

from node.api.edge.asgi import COUNTED_ELSEWHERE, ROUTE
from node.api.edge.owner import owner_of
from node.api.http.direct import DirectBody
from node.api.http.stream import PiecesBody
from node.errors import InvalidRequestError, RequestError, UnauthorizedError
from node.requests import tracing
from node.requests.answer import Answer, Delta, Ending
from node.routing import wire
from node.routing.router import Router
from node.routing.signature import Signer
from shared.events.event import Event
from shared.events.mesh import MessagesMoved, NetworkFailed

_TYPE: Final = "application/octet-stream"


def add_forwarded(
    app: QuartTrio, router: Router, signer: Signer, emit: Callable[[Event], None]
) -> None:
    """Add the route by which the application answers other nodes.

    Args:
        app: The application.
        router: Accepts the requests; a forwarded one is always answered here.
        signer: Knows whether a request comes from a node of the mesh.
        emit: Receives events.
    """

    async def generate() -> Response:
        # Traffic between nodes counts as the mesh's.
        request.scope[ROUTE] = COUNTED_ELSEWHERE  # type: ignore[typeddict-unknown-key]
        body: bytes = await request.body
        emit(MessagesMoved("received", "forward", 1, len(body)))
        if not signer.check(request.headers.get(wire.SIGNATURE, ""), body, time.time()):
            emit(NetworkFailed("unauthenticated", 1))
            raise UnauthorizedError(
                "this request is not signed by a node of the mesh, or is too old"
            )
        try:
            asked = wire.read_request(body)
        except ValueError as error:
            raise InvalidRequestError(f"the body is not a request from a node: {error}") from error
        if not asked.forwarded:
            raise InvalidRequestError("a node must set forwarded", parameter="forwarded")
        if asked.trace is not None:
            asked = replace(asked, trace=tracing.below(asked.trace))
        answer = router.admit(asked, owner_of(request.scope))
        frames = DirectBody(PiecesBody(_Frames(answer)), request.scope)
        response = Response(frames, content_type=_TYPE)
        response.timeout = None
        return response

    app.add_url_rule(wire.PATH, "forwarded", generate, methods=["POST"])


class _Frames(AsyncIterator[bytes]):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._told = 0
        """How many frames were sent: admitted, begun, accepted, then the tokens."""
        self._ended = False
        self._is_echo_sent = not answer.request.echo

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        self._told += 1
        try:
            if self._told == 1:
                return wire.pack(wire.Admitted())
            if self._told == 2:
                await self._answer.begun.wait()
                return wire.pack(wire.Begun())
            if self._told == 3:
                await self._answer.wait_accepted()
                answer = self._answer
                return wire.pack(
                    wire.Accepted(answer.prompt_tokens, answer.cached_tokens, answer.thinks)
                )
            received = await self._answer.receive_several()
        except RequestError as error:
            self._ended = True
            return wire.pack(wire.failed(error))
        if isinstance(received, Ending):
            self._ended = True
            return self._echo() + self._closing(received)
        return self._echo() + b"".join(map(_drawn, received))

    def _echo(self) -> bytes:
        """Pack the prompt's tokens, which precede the answer, once."""
        if self._is_echo_sent or self._answer.echoed is None:
            return b""
        self._is_echo_sent = True
        return wire.pack(wire.Echoed(*self._answer.echoed))

    def _closing(self, ending: Ending) -> bytes:
        written = b""
        if vector := self._answer.vector:
            written = wire.pack(wire.Vector(vector))
        if self._answer.request.tokenize:
            written = wire.pack(wire.Tokens(*self._answer.prompt))
        return written + wire.pack(
            wire.Ended(
                ending.finish_reason,
                ending.prompt_tokens,
                ending.cached_tokens,
                self._answer.unseen_tokens,
            )
        )


def _drawn(delta: Delta) -> bytes:
    """Pack a token. The asking node reconstructs the rest of a text that has no token."""
    if delta.token is None:
        return b""
    token = delta.token
    return wire.pack(wire.Drawn(token.identity, token.piece, token.likelihood, token.part))
