"""The protocol of tunnels: the requests that open their connections, and a claim's messages.

A tunnel has one connection for its claim and one for each client of the worker. Each begins as a
signed HTTP request with the header `Upgrade`. After the response 101, the claim's connection
carries frames (a length in 4 bytes, big-endian, then one tagged msgpack array), and a client's
connection its bytes as they are. So a worker that reads slowly delays no heartbeat.
"""

from typing import Annotated, Final

import msgspec
import trio
from msgspec import Meta

from node.engine.protocol import FrameReader
from node.pipeline.tunnel import Claim, Loss, Refusal
from node.routing.offer import Name

PATH: Final = "/mesh/v1/tunnel"
PROTOCOL: Final = "distributed-llm-tunnel"
"""The value of the header `Upgrade`."""
SWITCHED: Final = (
    f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n"
).encode()
BEAT_SECONDS: Final = 0.5
_SILENCE_SECONDS: Final = 2.5
"""A peer that is silent for this long is considered frozen or cut off."""
_FRAME_BYTES: Final = 16 * 2**10
_READ_BYTES: Final = 4096

_Nonce = Annotated[bytes, Meta(min_length=16, max_length=16)]
_Text = Annotated[str, Meta(max_length=2000)]


class Claiming(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Opens a tunnel: lend this pipeline a worker while the connection lasts."""

    claim: Claim
    nonce: _Nonce
    """Makes each request's signature different."""


class Attaching(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Adds a client's connection to the worker that a pipeline has claimed."""

    node_id: Name
    pipeline_id: Name
    nonce: _Nonce


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The worker listens. The first message of the lender, unless it refuses."""


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """No worker is lent. The last message."""

    reason: Refusal
    message: _Text


class Beat(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The coordinator's heartbeat, which the lender returns."""


class Lost(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The worker is no longer available. The last message."""

    reason: Loss


Message = Ready | Refused | Beat | Lost

_encoder = msgspec.msgpack.Encoder()
_request_decoder = msgspec.msgpack.Decoder(Claiming | Attaching)
_message_decoder = msgspec.msgpack.Decoder(Message)


def pack_request(request: Claiming | Attaching) -> bytes:
    """Pack the body of a request that opens a connection."""
    return _encoder.encode(request)


def read_request(body: bytes) -> Claiming | Attaching:
    """Read the body of a request that opens a connection.

    Raises:
        ValueError: It is not one.
    """
    request: Claiming | Attaching = _request_decoder.decode(body)
    return request


class PeerGoneError(Exception):
    """The other end of a claim's connection is silent, or has closed it."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(loss)
        self.loss: Loss = loss


class Control:
    """A claim's connection at either end.

    Args:
        stream: The connection, after the response 101.
        received: What came with that response.
    """

    def __init__(self, stream: trio.abc.Stream, received: bytes = b"") -> None:
        self._stream = stream
        self._frames = FrameReader(_FRAME_BYTES)
        self._received = self._frames.feed(received)
        self._sending = trio.Lock()

    async def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            PeerGoneError: The other end takes nothing, or has closed the connection.
        """
        packed = _encoder.encode(message)
        try:
            with trio.fail_after(_SILENCE_SECONDS):
                async with self._sending:
                    await self._stream.send_all(len(packed).to_bytes(4, "big") + packed)
        except trio.TooSlowError as error:
            raise PeerGoneError("frozen") from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise PeerGoneError("cut") from error

    async def receive(self, patience_seconds: float = _SILENCE_SECONDS) -> Message:
        """Wait for the next message.

        Raises:
            PeerGoneError: None came in time, or the connection ended or is broken.
        """
        try:
            with trio.fail_after(patience_seconds):
                while not self._received:
                    self._received += await self._receive_some()
            message: Message = _message_decoder.decode(self._received.pop(0))
        except trio.TooSlowError as error:
            raise PeerGoneError("frozen") from error
        except (trio.BrokenResourceError, trio.ClosedResourceError, ValueError) as error:
            raise PeerGoneError("cut") from error
        return message

    async def _receive_some(self) -> list[bytes]:
        received = await self._stream.receive_some(_READ_BYTES)
        if not received:
            raise PeerGoneError("cut")
        return self._frames.feed(received)
