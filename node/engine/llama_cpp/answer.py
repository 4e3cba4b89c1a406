"""Answers requests with a loaded llama-server."""

from functools import partial
from itertools import takewhile
from operator import eq
from typing import Final

import msgspec

from node.engine.llama_cpp.completion import FREE, Grammar, completion_body, tokens_left
from node.engine.llama_cpp.completion_stream import CompletionReader
from node.engine.llama_cpp.connection import request
from node.engine.llama_cpp.errors import EngineLostError, RefusedError
from node.engine.llama_cpp.prompts import Prompts
from node.engine.llama_cpp.replay import PartedError, Replay
from node.engine.llama_cpp.replies import read_failure, refused
from node.engine.llama_cpp.scoring import CharacterDrawnError, CharacterWatch, Gate, Scorer
from node.engine.llama_cpp.vectors import Send, embed, rank
from node.engine.protocol import (
    Echoed,
    Evaluated,
    Finished,
    Generate,
    Load,
    Result,
    Sampled,
    ThoughtsOpened,
    Tokenize,
    Tokenized,
)
from node.requests.request import Chat, Token

_OTHER_KIND: Final = {
    True: "this model makes vectors only: request an embedding",
    False: "this model makes texts only: request vectors of an embedding model",
}
_PARTED: Final = (
    "the engine was lost in the middle of an answer that must match a schema, and the answer "
    "cannot be continued: ask again"
)
_MINIMUM: Final = (
    "`min_tokens` cannot be kept with a schema or strict tools, which decide where an answer ends: "
    "leave it out"
)
_WORTH_TOKENS: Final = 128
"""With one slot, a shorter part of a prompt is evaluated again although it is in the cache, so that
the answer can be repeated exactly if the server is lost. A guess at what that is worth."""


class LoadedModel:
    """A llama-server that has its model in memory.

    Args:
        socket: The path of its socket.
        context_length: Positions of one slot.
        slots: Requests that it works on at once.
        load: How it was loaded.
    """

    def __init__(self, socket: str, context_length: int, slots: int, load: Load) -> None:
        self._socket = socket
        self._context_length = context_length
        self._is_repeatable = slots == 1
        """Whether the same request has the same answer: no company changes its sums."""
        self._embeds = load.embeds
        self._ranks = load.ranks
        self._prompts = Prompts(socket)
        self._scorer = Scorer(socket)
        self._previous: list[int] = []
        """The last prompt."""

    async def answer(self, command: Generate, send: Send) -> Finished:
        """Answer a request and return how it ended; the other results go to `send` as they come.

        Cancelling it closes the connection, which frees the slot.

        Raises:
            EngineLostError: The server is gone or broken; another one can answer.
        """
        if command.embed != self._embeds:
            return Finished(command.request, "refused", _OTHER_KIND[self._embeds])
        if self._ranks:
            return await rank(self._socket, command, send)
        try:
            tokens, thinks = await self._prompts.read(command.prompt)
        except RefusedError as error:
            return Finished(command.request, "refused", str(error))
        if refusal := self._find_refusal(command, tokens):
            return refusal
        if command.embed:
            return await embed(self._socket, command, tokens, send)
        if thinks:
            await send([ThoughtsOpened(command.request)])
        return await self._generate(command, tokens, send)

    async def _generate(self, command: Generate, tokens: list[int], send: Send) -> Finished:
        try:
            grammar = await self._prompts.grammar(command)
        except RefusedError as error:
            has_tools = isinstance(command.prompt, Chat) and command.prompt.tools
            parameter = "tools" if has_tools else "response_format"
            return Finished(command.request, "refused", str(error), parameter=parameter)
        if command.echo and not command.prior:
            await self._echo(command, tokens, send)
        if command.echo_only:
            return Finished(command.request, "length", "")
        if command.logprobs is None:
            return await self._complete(command, tokens, grammar, send)
        if not grammar:
            return await self._measure(command, tokens, send)
        # It can only be followed from its beginning, so the answer cannot be stopped on its way.
        gate = Gate(send, [*tokens, *command.prior])
        finished = await self._complete(command, tokens, grammar, gate.pass_on)
        self._previous = []  # the cache will hold what `finish` leaves there
        await gate.finish(self._scorer, command.logprobs)
        return finished

    async def _measure(self, command: Generate, tokens: list[int], send: Send) -> Finished:
        """Stream the answer with its likelihoods.

        The stream has none for the tokens of a character that took several. There the answer is
        stopped, its slot measures them, and it goes on after them.
        """
        draw, top = self._complete, command.logprobs or 0
        while True:
            watch = CharacterWatch(send, command.prior)
            try:
                return await draw(command, tokens, FREE, watch.pass_on)
            except CharacterDrawnError as drawn:
                self._previous = []
                before = [*tokens, *watch.passed]
                for part in drawn.parts:
                    scored = await self._scorer.score(before, part.token, top)
                    await send([msgspec.structs.replace(part, likelihood=scored.likelihood)])
                    before.append(part.token)
            command = msgspec.structs.replace(command, prior=tuple(before[len(tokens) :]))
            draw = partial(self._draw, goes_on=True)

    async def _echo(self, command: Generate, tokens: list[int], send: Send) -> None:
        """Send the prompt's text, and its tokens with their likelihoods if they are wanted."""
        _, text = await self._prompts.show(command.prompt)
        scored: tuple[Token, ...] = ()
        if command.logprobs is not None:
            self._previous = []

            async def note(done: int) -> None:
                await send([Evaluated(command.request, done, len(tokens), 0)])

            shown = text if isinstance(command.prompt, str) else None
            scored = await self._scorer.score_prompt(tokens, command.logprobs, shown, note)
        done = Evaluated(command.request, len(tokens), len(tokens), 0)
        await send([done, Echoed(command.request, scored, text)])

    def _find_refusal(self, command: Generate, tokens: list[int]) -> Finished | None:
        """Return how a request ends that does not fit the model; None if it does."""
        if len(tokens) >= self._context_length + command.embed:
            message = (
                f"the prompt has {len(tokens)} tokens; the model's context holds "
                f"{self._context_length}, including the answer"
            )
            return Finished(command.request, "too_long", message)
        most = tokens_left(command, len(tokens), self._context_length) + len(command.prior)
        is_bound = command.schema is not None or command.strict
        if is_bound and 0 < command.min_tokens < most:
            return Finished(command.request, "unsupported", _MINIMUM, parameter="min_tokens")
        return None

    async def show(self, command: Tokenize, send: Send) -> Finished:
        """Send a prompt's tokens and text; raises like `answer`."""
        try:
            tokens, text = await self._prompts.show(command.prompt)
        except RefusedError as error:
            return Finished(command.request, "refused", str(error))
        await send([Tokenized(command.request, tuple(tokens), text)])
        return Finished(command.request, "stop", "")

    async def _complete(
        self, command: Generate, tokens: list[int], grammar: Grammar, send: Send
    ) -> Finished:
        if command.prior and (self._is_repeatable or grammar):
            try:
                return await self._repeat(command, tokens, grammar, send)
            except PartedError:
                if grammar:  # it can only be followed from its beginning
                    return Finished(command.request, "parted", _PARTED)
                # Else its tokens are evaluated like a prompt, and the rest is drawn after them.
        return await self._draw(command, tokens, grammar, send)

    async def _repeat(
        self, command: Generate, tokens: list[int], grammar: Grammar, send: Send
    ) -> Finished:
        """Draw the whole answer again and return only what is new.

        Raises:
            PartedError: It is not the same again.
        """
        replay = Replay(command.prior, len(tokens))

        async def send_new(results: list[Result]) -> None:
            await send(replay.take(results))

        finished = await self._draw(
            msgspec.structs.replace(command, prior=()), tokens, grammar, send_new
        )
        replay.finish()
        return finished

    async def _draw(
        self,
        command: Generate,
        tokens: list[int],
        grammar: Grammar,
        send: Send,
        *,
        goes_on: bool = False,
    ) -> Finished:
        """Stream the answer: first the tokens before which it may not end, then the rest.

        `goes_on` says that the slot still holds the prior tokens, which it drew itself.
        """
        most = tokens_left(command, len(tokens), self._context_length) + len(command.prior)
        drawn = list(command.prior)

        async def note(results: list[Result]) -> None:
            drawn.extend(result.token for result in results if isinstance(result, Sampled))
            await send(results)

        goal = command.min_tokens
        while len(drawn) < command.min_tokens and goal < most:
            part = msgspec.structs.replace(command, prior=tuple(drawn), max_tokens=goal)
            finished = await self._continue(part, tokens, grammar, note, goes_on=goes_on)
            if finished.reason != "length":
                return finished
            goal += 1  # the first tokens of a character are shown only with its last one
        command = msgspec.structs.replace(command, prior=tuple(drawn))
        return await self._continue(command, tokens, grammar, send, goes_on=goes_on)

    async def _continue(
        self,
        command: Generate,
        tokens: list[int],
        grammar: Grammar,
        send: Send,
        *,
        goes_on: bool,
    ) -> Finished:
        """Stream what follows the prompt and the prior tokens of the answer."""
        wanted = tokens_left(command, len(tokens), self._context_length)
        if wanted < 1:  # an earlier server drew the last one but was lost before it said so
            return Finished(command.request, "length", "")
        cached = self._may_reuse(tokens) or goes_on
        kept = await self._prompts.kept_tokens()
        body = completion_body(command, tokens, wanted, cached=cached, grammar=grammar, kept=kept)
        reader = CompletionReader(command.request)
        async with request(self._socket, "/completion", body) as response:
            if response.status != 200:
                return refused(command.request, read_failure(await response.read()))
            while received := await response.receive():
                if results := await self._prompts.named(reader.feed(received)):
                    await send(results)
        if reader.finished is None:
            raise EngineLostError("the answer broke off")
        return reader.finished

    def _may_reuse(self, tokens: list[int]) -> bool:
        """Return whether the part of a prompt that is in the cache need not be evaluated."""
        shared = sum(takewhile(bool, map(eq, tokens, self._previous)))
        self._previous = tokens
        return not self._is_repeatable or shared >= _WORTH_TOKENS
