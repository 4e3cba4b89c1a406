"""Check passwords against bcrypt hashes without blocking the event loop."""

import hmac
import secrets
from collections.abc import Mapping
from typing import Final

import bcrypt
import trio

_WAITING: Final = 16
"""Passwords that wait for their turn; at the usual cost of 10 that is about a second of work."""
_BCRYPT_BYTES: Final = 72
"""bcrypt ignores the rest of a password; the library refuses a longer one instead."""


class CrowdedError(Exception):
    """Too many unknown passwords are being checked."""


class Passwords:
    """The users of a port.

    A hash takes a core for 0.1 s or more. So one is computed at a time, in a worker thread, and the
    last password that was right is remembered for each user, as a keyed digest.

    Args:
        users: A bcrypt hash for each user; at least one.
    """

    def __init__(self, users: Mapping[str, str]) -> None:
        self._hashes = {user: hashed.encode() for user, hashed in users.items()}
        self._decoy = next(iter(self._hashes.values()))
        """Checked for an unknown user, so that the time does not show who exists."""
        self._right: dict[str, bytes] = {}
        self._digest_key = secrets.token_bytes()
        self._turns = trio.CapacityLimiter(1)

    async def allow(self, user: str, password: bytes) -> bool:
        """Return whether a user has this password.

        Raises:
            CrowdedError: It is not a password that was right before, and too many others wait.
        """
        digest = hmac.digest(self._digest_key, password, "sha256")
        if hmac.compare_digest(self._right.get(user, b""), digest):
            return True
        if self._turns.statistics().tasks_waiting >= _WAITING:
            raise CrowdedError
        is_right = await trio.to_thread.run_sync(
            bcrypt.checkpw,
            password[:_BCRYPT_BYTES],
            self._hashes.get(user, self._decoy),
            abandon_on_cancel=True,
            limiter=self._turns,
        )
        if not is_right or user not in self._hashes:
            return False
        self._right[user] = digest
        return True
