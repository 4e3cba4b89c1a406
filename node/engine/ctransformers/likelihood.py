"""How likely tokens are, by a model's logits."""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from node.requests.request import Candidate, Likelihood, Token


def measure(
    logits: Sequence[float], token: int, top: int, text: Callable[[int], bytes]
) -> Likelihood | None:
    """Return a token's likelihood; None without logits.

    Args:
        logits: The logit of each token of the vocabulary, by its number.
        token: The token.
        top: How many of the likeliest tokens to report.
        text: Returns a token's bytes.
    """
    if not logits:
        return None
    highest = max(logits)
    total = highest + math.log(math.fsum(math.exp(logit - highest) for logit in logits))
    likeliest = heapq.nlargest(top, range(len(logits)), key=logits.__getitem__)
    candidates = (Candidate(one, text(one), logits[one] - total) for one in likeliest)
    return Likelihood(logits[token] - total, tuple(candidates))


class Engine(Protocol):
    """The model with its one sequence of evaluated tokens."""

    def rewind(self, tokens: Sequence[int]) -> list[int]:
        """Keep what `tokens` shares with the sequence, except for the last one of `tokens`."""

    def evaluate(self, tokens: Sequence[int]) -> None:
        """Append tokens to the sequence."""

    def logits(self) -> list[float]:
        """Return the logit of each token after the sequence."""

    def text(self, token: int) -> bytes:
        """Return a token's bytes."""


def score_prompt(engine: Engine, tokens: Sequence[int], top: int) -> Iterator[Token]:
    """Evaluate a prompt token by token; yield each token, all but the first with a likelihood.

    Args:
        engine: The engine, which holds the prompt afterwards.
        tokens: The prompt.
        top: How many of the likeliest tokens to report at each position.
    """
    engine.rewind(tokens[:1])
    likelihood: Likelihood | None = None
    for number, token in enumerate(tokens):
        if number:
            likelihood = measure(engine.logits(), token, top, engine.text)
        engine.evaluate([token])
        yield Token(token, engine.text(token), likelihood)
