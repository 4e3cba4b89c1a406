"""Proves that a request comes from a node of this mesh and was not sent before.

HMAC-SHA256 over the time and the request, with a key derived from the cluster's secret. A signature
older than the window is refused. Within the window each signature is accepted once. No I/O and no
clock.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

WINDOW_SECONDS: Final = 30
"""How much the clocks of two nodes may differ, the request's travel time included."""
_REMEMBERED: Final = 100_000
"""Limit of remembered signatures, 32 bytes each and about as much for their set: at most 10 MB."""
_PURPOSE: Final = b"distributed-llm forward\0"
"""Separates the key from other uses of the secret."""


class Signer:
    """Signs requests and checks them.

    Args:
        secrets: The first one signs, each is accepted.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [hashlib.sha256(_PURPOSE + secret.encode()).digest() for secret in secrets]
        self._taken = _Taken()

    def sign(self, body: bytes, now: float) -> str:
        """Return the header's value for a request.

        Args:
            body: The request.
            now: Unix time in seconds.
        """
        return f"{int(now)}.{_sign(self._keys[0], int(now), body).hex()}"

    def check(self, value: str, body: bytes, now: float) -> bool:
        """Return whether a header's value proves the request; True only once per signature."""
        written, _, given = value.partition(".")
        if not written.isascii() or not written.isdecimal() or len(written) > len(str(2**40)):
            return False
        try:
            signature = bytes.fromhex(given)
        except ValueError:
            return False
        at = int(written)
        if abs(now - at) > WINDOW_SECONDS or not self._is_authentic(signature, at, body):
            return False
        return self._taken.add(signature, at, now)

    def _is_authentic(self, signature: bytes, at: int, body: bytes) -> bool:
        return any(hmac.compare_digest(signature, _sign(key, at, body)) for key in self._keys)


class _Taken:
    """The signatures of the window, by the second in which they were made."""

    def __init__(self) -> None:
        self._by_second: dict[int, set[bytes]] = {}
        self._count = 0

    def add(self, signature: bytes, at: int, now: float) -> bool:
        """Remember a signature. Return False if it is known already, or there is no room."""
        if at not in self._by_second:
            self._forget_old(now)
        known = self._by_second.setdefault(at, set())
        if signature in known or self._count >= _REMEMBERED:
            return False
        known.add(signature)
        self._count += 1
        return True

    def _forget_old(self, now: float) -> None:
        """Forget whole seconds, so that at most two windows of them are kept."""
        for at in [at for at in self._by_second if now - at > WINDOW_SECONDS]:
            self._count -= len(self._by_second.pop(at))


def _sign(key: bytes, at: int, body: bytes) -> bytes:
    return hmac.digest(key, b"%d." % at + body, "sha256")
