"""Asks a server elsewhere for one answer, and passes on what comes."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from node.engine.protocol import Evaluated, Finished, Generate, Result, Said, Sampled, Tokenize
from node.engine.upstream import short
from node.engine.upstream.address import Address
from node.engine.upstream.body import (
    CannotContinueError,
    chat_body,
    completion_body,
    tokens_left,
)
from node.engine.upstream.check import Served
from node.engine.upstream.client import Pieces, UpstreamClient
from node.engine.upstream.endings import path_of
from node.engine.upstream.errors import UpstreamError
from node.engine.upstream.stream import StreamReader
from node.requests.request import Chat

Send = Callable[[list[Result]], Awaitable[None]]
_NO_TOKENS: Final = (
    "models on servers that others run return no log-probabilities and no echo: leave out "
    "`logprobs` and `echo`"
)
_TAIL_SECONDS: Final = 5.0
"""How long to wait for the counts after the end of an answer."""


class Progress:
    """When each request last made progress, in trio time.

    A server may let requests wait: until its first piece, a request counts as progressing with the
    others.
    """

    def __init__(self) -> None:
        self._latest = 0.0
        self._pieces: dict[int, float] = {}

    def note(self, result: Result) -> None:
        """Record a result."""
        if isinstance(result, Said | Sampled):
            self._latest = self._pieces[result.request] = trio.current_time()
        elif isinstance(result, Evaluated):
            self._latest = trio.current_time()

    def forget(self, request: int) -> None:
        """Forget a request that has ended."""
        self._pieces.pop(request, None)

    def last_sign(self, request: int) -> float:
        """Return when the request last made progress."""
        return self._pieces.get(request, self._latest)


@dataclass(frozen=True)
class Asking:
    """One request to a server."""

    client: UpstreamClient
    address: Address
    served: Served

    async def answer(self, command: Generate | Tokenize, send: Send) -> list[Result]:
        """Answer a request. Return its last results; the others go to `send` as they come.

        Raises:
            UpstreamError: The server does not answer, refuses, or breaks off.
        """
        if isinstance(command, Tokenize):
            return await short.tokens(self.client, command, self.address)
        if command.embed:
            return await short.vector(self.client, command, self.address.model)
        if command.logprobs is not None or command.echo:
            return [Finished(command.request, "unsupported", _NO_TOKENS, parameter="logprobs")]
        left = tokens_left(command)
        if left is not None and left < 1:  # the last piece came, but not the end
            return [Finished(command.request, "length", "")]
        try:
            body = self._body(command)
        except CannotContinueError as error:
            text = f"the server broke off the answer, which cannot be continued: {error}"
            return [Finished(command.request, "parted", text)]
        reader = StreamReader(command, len(body))
        async with self.client.stream(path_of(command), body) as pieces:
            await _read(pieces, reader, send)
        return reader.finish()

    def _body(self, command: Generate) -> bytes:
        """Return the request's body.

        Raises:
            CannotContinueError: The server cannot continue what was said so far.
        """
        if not isinstance(command.prompt, Chat):
            return completion_body(command, command.prompt, self.address.model)
        if command.said and not self.served.kind:
            raise CannotContinueError("the server is not known to continue messages")
        return chat_body(
            command,
            command.prompt,
            self.address.model,
            chooses_by_name=self.served.kind != "llama.cpp",
        )


async def _read(pieces: Pieces, reader: StreamReader, send: Send) -> None:
    """Pass on what a stream says, until the answer's end or the stream's.

    The stream is left by cancelling it: the HTTP client closes it completely only then.

    Raises:
        UpstreamError: The server breaks off, or reports an error.
    """
    fault: UpstreamError | None = None
    with trio.CancelScope() as rest:
        try:
            async for received in pieces:
                if results := reader.feed(received):
                    await send(results)
                if reader.has_ended:
                    tail_seconds = 0 if reader.is_done else _TAIL_SECONDS
                    rest.deadline = min(rest.deadline, trio.current_time() + tail_seconds)
        except UpstreamError as error:
            fault = error
    if fault is not None and not reader.has_ended:
        raise fault
