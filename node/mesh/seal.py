"""Signs messages with the cluster's secret, and checks which are authentic and fresh.

An attacker on the network can read, drop, delay and repeat messages. A forged message fails its
HMAC. Replays are refused as well: an answer is bound to the random nonce of its survey; a survey is
accepted once, by its rising sequence number, and only while it is recent. No I/O and no clock.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from node.mesh.messages import PROTOCOL, Head, Message
from shared.events.mesh import NetworkFault

WINDOW_SECONDS: Final = 30.0
"""How much the clocks of two nodes may differ, the message's travel time included."""
SENDERS: Final = 4096
"""How many runs of nodes have their last sequence number remembered."""
_MAC_BYTES: Final = 32
_PURPOSE: Final = b"distributed-llm mesh\0"
"""Separates the key from other uses of the secret."""

_encoder = msgspec.msgpack.Encoder()
_message_decoder = msgspec.msgpack.Decoder(Message)
_head_decoder = msgspec.msgpack.Decoder(Head)
_DAMAGED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True)
class Opened:
    """A message that can be trusted."""

    message: Message
    repeated: bool = False
    """Whether it repeats the sender's last survey, as when it arrives over a second connection."""


@dataclass(frozen=True)
class Refused:
    """A message that cannot be trusted."""

    reason: NetworkFault
    head: Head | None = None
    """The sender, if the message is authentic but has another protocol or time."""


class Seal:
    """One node's key, and its record of accepted messages.

    Args:
        secrets: The first one signs, each is accepted; empty if the mesh is on loopback only.
    """

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        texts = secrets or ("",)
        self._keys = [hashlib.sha256(_PURPOSE + text.encode()).digest() for text in texts]
        self._taken: dict[tuple[str, int], tuple[int, float]] = {}
        """The highest sequence number and its arrival time by sender and session, the latest last.
        """

    def sign(self, message: Message) -> bytes:
        """Return a packed message with its HMAC in front."""
        packed = _encoder.encode(message)
        return hmac.digest(self._keys[0], packed, "sha256") + packed

    def open_survey(self, sealed: bytes, now: float) -> Opened | Refused:
        """Read a survey or a goodbye. Never raises.

        Args:
            sealed: The received bytes, perhaps not from a node at all.
            now: Unix time in seconds.
        """
        found = self._open(sealed, now)
        if isinstance(found, Refused):
            return found
        if found.kind == "answer":
            return Refused("malformed")
        sender = (found.node_id, found.session)
        last, _ = self._taken.get(sender, (-1, 0.0))
        if found.sequence < last:
            return Refused("stale")
        if sender not in self._taken and not self._has_room(now):
            return Refused("overflow")
        self._taken.pop(sender, None)
        self._taken[sender] = (found.sequence, now)
        return Opened(found, repeated=found.sequence == last)

    def open_answer(self, sealed: bytes, now: float, nonce: bytes) -> Opened | Refused:
        """Read an answer to the survey with this nonce. Never raises."""
        found = self._open(sealed, now)
        if isinstance(found, Refused):
            return found
        if found.kind != "answer":
            return Refused("malformed")
        if found.nonce != nonce:
            return Refused("stale")
        return Opened(found)

    def _open(self, sealed: bytes, now: float) -> Message | Refused:
        mac, packed = sealed[:_MAC_BYTES], sealed[_MAC_BYTES:]
        if len(mac) < _MAC_BYTES:
            return Refused("malformed")
        if not self._is_authentic(mac, packed):
            return Refused("unauthenticated")
        try:
            message = _message_decoder.decode(packed)
        except _DAMAGED:
            return _refuse_other(packed, now)
        if message.protocol != PROTOCOL or _is_of_another_time(message.sent_at, now):
            return _refuse_other(packed, now)
        return message

    def _is_authentic(self, mac: bytes, packed: bytes) -> bool:
        return any(
            hmac.compare_digest(mac, hmac.digest(key, packed, "sha256")) for key in self._keys
        )

    def _has_room(self, now: float) -> bool:
        """Return whether there is room for a sender; forget the oldest one if that is safe."""
        if len(self._taken) < SENDERS:
            return True
        oldest = next(iter(self._taken))
        _, came_at = self._taken[oldest]
        # A message's time may be a window ahead. It is too old one window after its time.
        if abs(now - came_at) <= 2 * WINDOW_SECONDS:
            return False
        del self._taken[oldest]
        return True


def _is_of_another_time(sent_at: float, now: float) -> bool:
    return abs(now - sent_at) > WINDOW_SECONDS


def _refuse_other(packed: bytes, now: float) -> Refused:
    """Return why an authentic message is refused: its protocol, its time or its form."""
    try:
        head = _head_decoder.decode(packed)
    except _DAMAGED:
        return Refused("malformed")
    if _is_of_another_time(head.sent_at, now):
        return Refused("stale", head)
    if head.protocol == PROTOCOL:
        return Refused("malformed")
    return Refused("incompatible", head)
