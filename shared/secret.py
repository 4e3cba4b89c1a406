"""Compares secrets without telling by the time it takes how close a guess was."""

import hashlib
import hmac
from collections.abc import Iterable

_BEARER = "bearer "
_NAME_LETTERS = 12
"""48 bits: enough to tell the tokens of one file apart, too few to try guesses against."""


class BearerTokens:
    """The tokens that `Authorization: Bearer …` may carry.

    Args:
        tokens: Each alone lets in; only their digests are kept.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.replace(tokens)

    def replace(self, tokens: Iterable[str]) -> None:
        """Let in by these tokens from now on, and by no other."""
        self._digests = [_digest(token) for token in tokens]

    def allow(self, authorization: str) -> bool:
        """Whether the header's value carries one of the tokens."""
        return self.find(authorization) is not None

    def find(self, authorization: str) -> str | None:
        """Name the token that the header's value carries: the beginning of its digest."""
        given = _digest(authorization[len(_BEARER) :].strip())
        is_bearer = authorization[: len(_BEARER)].lower() == _BEARER
        # Every one is compared, so that the time does not tell which matched.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return given.hex()[:_NAME_LETTERS] if is_bearer and any(matches) else None


def parse_tokens(text: str) -> list[str]:
    """Read tokens, one a line; empty lines and those that begin with # are passed over."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
