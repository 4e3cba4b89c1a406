"""What a node asks of another in a caller's place, and what it is told.

The question is an `InferenceRequest` as a msgpack map. The answer is a stream of frames, each its
length in 4 bytes, big-endian, then one tagged msgpack array; one of the last two ends it. A refusal
is an HTTP status with OpenAI's error object, as any client of the API gets it.
"""

from typing import Final

import msgspec

from node.engine.protocol import FrameReader
from node.requests.generation import InferenceRequest
from shared.events import FinishReason

PATH: Final = "/mesh/v1/generate"
SIGNATURE: Final = "x-distributed-llm-signature"
"""Header: Unix time in whole seconds, a dot, and the signature in hexadecimal."""


class Drawn(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """One token was drawn."""

    token: int
    piece: bytes


class Vector(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The prompt's vector, where that was asked for."""

    numbers: tuple[float, ...]


class Admitted(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The request is in a queue. The first frame."""


class Accepted(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """An engine works on the prompt: from here on an answer comes."""


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The answer is complete."""

    reason: FinishReason
    prompt_tokens: int
    cached_tokens: int


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The answer ended in an error, of which the code says which it is."""

    status: int
    code: str
    message: str


Frame = Drawn | Vector | Admitted | Accepted | Ended | Failed

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)
_request_decoder = msgspec.msgpack.Decoder(InferenceRequest)


def pack_request(request: InferenceRequest) -> bytes:
    """Write a question."""
    return _encoder.encode(request)


def read_request(body: bytes) -> InferenceRequest:
    """Read a question.

    Raises:
        ValueError: It is none.
    """
    return _request_decoder.decode(body)


def pack(frame: Frame) -> bytes:
    """Write one frame."""
    packed = _encoder.encode(frame)
    return len(packed).to_bytes(4, "big") + packed


class FrameDecoder:
    """Reads frames from a stream of bytes."""

    def __init__(self) -> None:
        self._reader = FrameReader()

    def feed(self, received: bytes) -> list[Frame]:
        """Take what arrived and give the frames that are now whole.

        Raises:
            ValueError: The stream holds no frames.
        """
        return [_decoder.decode(frame) for frame in self._reader.feed(received)]
