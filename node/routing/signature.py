"""Proves to a node that a question comes from a node of its mesh, and was not asked before.

HMAC-SHA256 over the time and the question, with a key made of the cluster's secret. What is older
than the window is refused, and within it each signature is taken once. No I/O and no clock.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

WINDOW_SECONDS: Final = 30
"""How far the clocks of two nodes may be apart, the way included."""
_REMEMBERED: Final = 100_000
_PURPOSE: Final = b"distributed-llm forward\0"
"""Keeps the key apart from whatever else the secret may be used for."""


class Signer:
    """Signs questions and checks them.

    Args:
        secrets: The first signs, each is accepted.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [hashlib.sha256(_PURPOSE + secret.encode()).digest() for secret in secrets]
        self._taken: dict[str, int] = {}
        """Signatures of the window, the oldest first, with their times."""

    def sign(self, body: bytes, now: float) -> str:
        """Give the header's value for a question.

        Args:
            body: The question.
            now: Unix time in seconds.
        """
        return f"{int(now)}.{_sign(self._keys[0], int(now), body)}"

    def check(self, value: str, body: bytes, now: float) -> bool:
        """Whether a header's value proves the question; true once for each signature."""
        written, _, signature = value.partition(".")
        if not written.isascii() or not written.isdecimal() or len(written) > len(str(2**40)):
            return False
        at = int(written)
        if abs(now - at) > WINDOW_SECONDS or not self._is_authentic(signature, at, body):
            return False
        self._taken = {s: t for s, t in self._taken.items() if now - t <= WINDOW_SECONDS}
        if signature in self._taken or len(self._taken) >= _REMEMBERED:
            return False
        self._taken[signature] = at
        return True

    def _is_authentic(self, signature: str, at: int, body: bytes) -> bool:
        given = signature.encode()
        return any(hmac.compare_digest(given, _sign(k, at, body).encode()) for k in self._keys)


def _sign(key: bytes, at: int, body: bytes) -> str:
    return hmac.new(key, b"%d." % at + body, hashlib.sha256).hexdigest()
