"""Compares secrets in a time that does not depend on how close a guess is."""

import hashlib
import hmac
from collections.abc import Iterable

_BEARER = "bearer "
_NAME_LETTERS = 12
"""48 bits: enough to tell the tokens of one file apart, too few to test guesses against."""


class BearerTokens:
    """The tokens that `Authorization: Bearer …` may carry.

    Args:
        tokens: Any one of them is accepted; only their digests are kept.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.replace(tokens)

    def replace(self, tokens: Iterable[str]) -> None:
        """Accept these tokens from now on, and no others."""
        self._digests = [_digest(token) for token in tokens]

    def allow(self, authorization: str) -> bool:
        """Return whether the header's value carries one of the tokens."""
        return self.find(authorization) is not None

    def find(self, authorization: str) -> str | None:
        """Return the name of the token in the header's value: the beginning of its digest."""
        given = _digest(authorization[len(_BEARER) :].strip())
        is_bearer = authorization[: len(_BEARER)].lower() == _BEARER
        # All are compared, so that the time does not show which one matched.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return given.hex()[:_NAME_LETTERS] if is_bearer and any(matches) else None


def parse_tokens(text: str) -> list[str]:
    """Return the tokens of a file, one per line; empty lines and comments (#) are skipped."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
