"""Likelihoods that no stream of llama-server reports: of a prompt's tokens, and inside a character.

`/completion` reports the likelihood of a token that it draws, as the model has it: before any bias
or other way of drawing. So a bias makes a token certain, and it is drawn alone. The server's cache
holds what comes before it, which makes that one step of the model.
"""

from collections.abc import Awaitable, Callable, Sequence
from itertools import takewhile
from typing import Any, Final, Protocol, TypeVar

import msgspec

from node.engine.llama_cpp.connection import call
from node.engine.llama_cpp.errors import EngineLostError
from node.engine.llama_cpp.replies import Likely, decode, read_failure, refused
from node.engine.protocol import Evaluated, Result, Sampled
from node.requests.request import Likelihood, Token

T = TypeVar("T")
Send = Callable[[list[Result]], Awaitable[None]]

_CERTAIN: Final = 1e6
"""A bias that no difference of logits outweighs."""
_SEARCHED: Final = (1000, 2**31 - 1)
"""How many of the likeliest tokens to search; the second is every token, up to 26 MB of JSON."""


class _Drawn(msgspec.Struct, frozen=True):
    completion_probabilities: list[Likely] = []


class _Ids(msgspec.Struct, frozen=True):
    tokens: list[int]


class _Content(msgspec.Struct, frozen=True):
    content: str


class Scorer:
    """The likelihoods of given tokens, by one llama-server.

    Args:
        socket: The path of its socket.
    """

    def __init__(self, socket: str) -> None:
        self._socket = socket

    async def score(self, before: list[int], token: int, top: int) -> Token:
        """Return a token with its likelihood after others; the piece of a control token is empty.

        Args:
            before: The tokens before it, at least one.
            token: The token.
            top: How many of the likeliest tokens to report.

        Raises:
            EngineLostError: The server is gone or broken.
        """
        if drawn := await self._draw(before, token, top):
            return Token(token, bytes(drawn.bytes), drawn.likelihood)
        return await self._find(before, token, top)

    async def score_prompt(
        self, tokens: list[int], top: int, text: str | None, note: Callable[[int], Awaitable[None]]
    ) -> tuple[Token, ...]:
        """Return a prompt's tokens, all but the first with a likelihood; raises like `score`.

        Args:
            tokens: The prompt.
            top: How many of the likeliest tokens to report at each position.
            text: The prompt's text, to which its control tokens add nothing. None if they do: then
                their pieces are their names.
            note: Called with the number of tokens that are done.
        """
        scored = []
        for position in range(1, len(tokens)):
            one = await self.score(tokens[:position], tokens[position], top)
            if text is None and not one.piece:
                one = msgspec.structs.replace(one, piece=await self._name(one.identity))
            scored.append(one)
            await note(position)
        if text is None:
            first = await self._name(tokens[0])
        else:
            first = _before(text.encode(), b"".join(one.piece for one in scored))
        return Token(tokens[0], first), *scored

    async def _draw(self, before: list[int], token: int, top: int) -> Likely | None:
        """Draw a token. Return it with the likeliest; None if a character begins with it."""
        body = {
            "prompt": before,
            "n_predict": 1,
            "n_probs": max(1, top),
            "cache_prompt": True,
            "temperature": 0,
            "logit_bias": [(token, _CERTAIN)],
            "response_fields": ["completion_probabilities"],
        }
        return next(
            iter((await self._ask("/completion", body, _Drawn)).completion_probabilities), None
        )

    async def _find(self, before: list[int], token: int, top: int) -> Token:
        """Return a token that begins a character, which is not reported when it is drawn."""
        [*_, whole] = (await self._ask("/tokenize", {"content": "a"}, _Ids)).tokens
        for most in _SEARCHED:
            drawn = await self._draw(before, whole, most)
            for one in drawn.top_logprobs if drawn else ():
                if drawn and one.id == token:
                    likeliest = drawn.likelihood.top[:top]
                    return Token(token, bytes(one.bytes), Likelihood(one.logprob, likeliest))
        raise EngineLostError(f"no likelihood for token {token}")

    async def _name(self, token: int) -> bytes:
        return (await self._ask("/detokenize", {"tokens": [token]}, _Content)).content.encode()

    async def _ask(self, target: str, body: dict[str, Any], kind: type[T]) -> T:
        status, answer = await call(self._socket, target, body)
        if status != 200:
            refused(0, read_failure(answer))
            raise EngineLostError(f"no likelihood: {read_failure(answer).message}")
        return decode(answer, kind)


def _before(text: bytes, rest: bytes) -> bytes:
    """Return what the first token adds to a text; nothing if it is the model's own beginning.

    After such a token, the pieces may have a blank that the text does not have.
    """
    return text.removesuffix(rest) if text.endswith(rest) else b""


class CharacterDrawnError(Exception):
    """Tokens of a character were drawn, whose likelihoods are not known.

    Args:
        parts: The tokens.
    """

    def __init__(self, parts: list[Sampled]) -> None:
        super().__init__()
        self.parts = parts


class CharacterWatch:
    """Passes on an answer's tokens up to the first one without a likelihood.

    Args:
        send: Receives the results.
        prior: The answer's tokens before the first one.
    """

    def __init__(self, send: Send, prior: Sequence[int]) -> None:
        self._send = send
        self.passed = list(prior)
        """The answer's tokens so far."""

    async def pass_on(self, results: list[Result]) -> None:
        """Pass on results.

        Raises:
            CharacterDrawnError: Some are tokens without likelihoods; what follows them is lost.
        """
        ready = list(takewhile(_is_measured, results))
        self.passed += [one.token for one in ready if isinstance(one, Sampled)]
        if ready:
            await self._send(ready)
        parts = takewhile(lambda one: not _is_measured(one), results[len(ready) :])
        if len(ready) < len(results):
            raise CharacterDrawnError([one for one in parts if isinstance(one, Sampled)])


def _is_measured(result: Result) -> bool:
    return not isinstance(result, Sampled) or result.likelihood is not None


class Measure(Protocol):
    """Knows the likelihood of a token."""

    async def score(self, before: list[int], token: int, top: int) -> Token:
        """Return a token with its likelihood after others."""


class Gate:
    """Passes on an answer's tokens up to the first one without a likelihood; `finish` the others.

    A running answer has the slot that would find out the likelihood.

    Args:
        send: Receives the results.
        before: The tokens before the first one.
    """

    def __init__(self, send: Send, before: list[int]) -> None:
        self._send = send
        self._before = list(before)
        self._held: list[Sampled] = []
        self._progress: list[Result] = []
        """The last progress, which is repeated for each token that is held back."""

    async def pass_on(self, results: list[Result]) -> None:
        """Pass on results, or hold them back."""
        passed: list[Result] = []
        for result in results:
            if isinstance(result, Evaluated):
                self._progress = [result]
            if isinstance(result, Sampled) and (self._held or result.likelihood is None):
                self._held.append(result)
                passed += self._progress
            else:
                passed += [result]
                self._before += [result.token] if isinstance(result, Sampled) else []
        await self._send(passed)

    async def finish(self, scorer: Measure, top: int) -> None:
        """Pass on what was held back, after the answer's end; raises like `Scorer.score`."""
        for token in self._held:
            if token.likelihood is None:
                scored = await scorer.score(self._before, token.token, top)
                token = msgspec.structs.replace(token, likelihood=scored.likelihood)  # noqa: PLW2901
            self._before.append(token.token)
            await self._send([token])
