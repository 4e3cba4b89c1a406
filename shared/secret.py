"""Reads secret files, and compares secrets in constant time."""

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator
from typing import Final

TOKEN_CHARACTERS: Final = 4096
"""A longer token would leave too little of a request's header limit."""
TOKEN_FILE_BYTES: Final = 2**20
"""Limit for a file of tokens: some hundred lines."""

_BEARER = "bearer "
_BYTE_ORDER_MARK: Final = "\ufeff"
_CARRIED: Final = re.compile(r"[!-~]+")
"""Characters that every client and proxy passes unchanged in a header: ASCII without spaces."""
_NAME_LETTERS = 12
"""48 bits: enough to distinguish the tokens of one file, too few to test guesses against."""


class BearerTokens:
    """The tokens that `Authorization: Bearer …` may carry.

    Args:
        tokens: Any of them is accepted; only their digests are kept.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.replace(tokens)

    def replace(self, tokens: Iterable[str]) -> None:
        """Accept only these tokens from now on."""
        self._digests = [_digest(token) for token in tokens]

    def allow(self, authorization: str) -> bool:
        """Return whether the header's value carries one of the tokens."""
        return self.find(authorization) is not None

    def find(self, authorization: str) -> str | None:
        """Return the name of the token in the header's value: the start of its digest."""
        given = _digest(bearer_token(authorization))
        # Compare all of them, so that the time does not depend on which one matches.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return given.hex()[:_NAME_LETTERS] if any(matches) else None


def bearer_token(authorization: str) -> str:
    """Return the token in the header's value; empty without one."""
    is_bearer = authorization[: len(_BEARER)].lower() == _BEARER
    return authorization[len(_BEARER) :].strip() if is_bearer else ""


def parse_tokens(text: str) -> list[str]:
    """Return the tokens, one per line; empty lines and lines that begin with # are skipped."""
    return [token for _, token in _lines(text)]


def parse_bearer_tokens(content: bytes) -> list[str]:
    """Return the tokens of a file, at least one, each of which is valid in a header.

    Raises:
        ValueError: What is wrong and where. The text contains nothing of the file.
    """
    if len(content) > TOKEN_FILE_BYTES:
        raise ValueError(f"it is larger than {TOKEN_FILE_BYTES} bytes")
    try:
        lines = list(_lines(content.decode()))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None  # the error contains file content
    if not lines:
        raise ValueError("it contains no key: write one key per line")
    for number, token in lines:
        if len(token) > TOKEN_CHARACTERS:
            raise ValueError(f"line {number} is longer than {TOKEN_CHARACTERS} characters")
        if not _CARRIED.fullmatch(token):
            problem = "contains a space or a character that is not ASCII"
            raise ValueError(f"line {number} {problem}")
    return [token for _, token in lines]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    lines = text.removeprefix(_BYTE_ORDER_MARK).splitlines()
    for number, line in enumerate(lines, 1):
        token = line.strip()
        if token and not token.startswith("#"):
            yield number, token


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
