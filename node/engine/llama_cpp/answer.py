"""Answers one request with a loaded llama-server."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from node.engine.llama_cpp.completion import (
    CompletionReader,
    completion_body,
    read_failure,
    read_vector,
    refused,
    tokens_left,
)
from node.engine.llama_cpp.connection import call, request
from node.engine.llama_cpp.errors import EngineLostError, RefusedError
from node.engine.llama_cpp.prompts import Prompts
from node.engine.protocol import Embedded, Evaluated, Finished, Generate, Result

Send = Callable[[list[Result]], Awaitable[None]]


@dataclass(frozen=True)
class LoadedModel:
    """A llama-server that has its model in memory."""

    socket: str
    context_length: int
    """Positions of one slot."""
    embeds: bool
    """Whether it makes vectors; any other makes texts."""

    async def answer(self, command: Generate, send: Send) -> Finished:
        """Answer a request and return how it ended; the other results go to `send` as they come.

        Cancelling it closes the connection, which frees the slot.

        Raises:
            EngineLostError: The server is gone or broken; another one can answer.
        """
        if command.embed != self.embeds:
            return Finished(command.request, "refused", _OTHER_KIND[self.embeds])
        prompts = Prompts(self.socket)
        try:
            tokens = await prompts.tokenize(command.prompt)
        except RefusedError as error:
            return Finished(command.request, "refused", str(error))
        if len(tokens) >= self.context_length + command.embed:
            message = (
                f"the prompt has {len(tokens)} tokens; the model's context holds "
                f"{self.context_length}, including the answer"
            )
            return Finished(command.request, "too_long", message)
        if command.embed:
            return await self._embed(command, tokens, send)
        return await self._complete(command, tokens, prompts, send)

    async def _embed(self, command: Generate, tokens: list[int], send: Send) -> Finished:
        status, body = await call(self.socket, "/embedding", {"content": tokens})
        if status != 200:
            return refused(command.request, read_failure(body))
        evaluated = Evaluated(command.request, len(tokens), len(tokens), 0)
        await send([evaluated, Embedded(command.request, read_vector(body))])
        return Finished(command.request, "stop", "")

    async def _complete(
        self, command: Generate, tokens: list[int], prompts: Prompts, send: Send
    ) -> Finished:
        wanted = tokens_left(command, len(tokens), self.context_length)
        if wanted < 1:  # an earlier server drew the last one but was lost before it said so
            return Finished(command.request, "length", "")
        prior = command.prior
        body = completion_body(command.sampling, [*tokens, *prior], len(prior), wanted)
        reader = CompletionReader(command.request)
        async with request(self.socket, "/completion", body) as response:
            if response.status != 200:
                return refused(command.request, read_failure(await response.read()))
            while received := await response.receive():
                if results := await prompts.named(reader.feed(received)):
                    await send(results)
        if reader.finished is None:
            raise EngineLostError("the answer broke off")
        return reader.finished


_OTHER_KIND: Final = {
    True: "this model makes vectors only: request an embedding",
    False: "this model makes texts only: request vectors of an embedding model",
}
