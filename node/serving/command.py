"""Writes a request as a command for the engine."""

from typing import Final

from node.engine.protocol import Generate, Tokenize
from node.requests.attempt import Attempt

_ENDLESS: Final = 2**31 - 1
"""More tokens than any context holds."""


def command_of(attempt: Attempt) -> Generate | Tokenize:
    """Return what the engine is told to do for a request."""
    request = attempt.answer.request
    if request.tokenize:
        return Tokenize(attempt.identity, request.prompt)
    return Generate(
        attempt.identity,
        request.prompt,
        request.max_tokens,
        request.sampling,
        attempt.prior,
        request.embed,
        _ENDLESS if request.ignore_end else request.min_tokens,
        request.schema,
        request.logprobs,
        request.echo,
        request.echo_only,
        request.strict,
        tuple(attempt.answer.tokens),
    )
