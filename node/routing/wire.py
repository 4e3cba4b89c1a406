"""The protocol between nodes: the request that one node forwards to another, and the answer.

The request is an `InferenceRequest` as a msgpack map, without the fields that have their default. A
node refuses a request with a field that it does not know: it is of an earlier build, and would not
do what the field asks for. The answer is a stream of frames; each is its length in 4 bytes,
big-endian, then one tagged msgpack array. A node ignores further values of a frame. `Ended` or
`Failed` ends the stream. A refusal is an HTTP status with OpenAI's error object, as for any client
of the API.
"""

import dataclasses
import math
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from node.engine.protocol import FrameReader
from node.errors import RequestError, UnavailableError
from node.requests.parts import Part
from node.requests.request import InferenceRequest, Likelihood, Token
from shared.events.requests import FinishReason

PATH: Final = "/mesh/v1/generate"
SIGNATURE: Final = "x-distributed-llm-signature"
"""Header: Unix time in whole seconds, a dot, and the signature in hexadecimal."""
_FRAME_BYTES: Final = 2**25
"""As long as the tokens and the text of the longest body."""

Count = Annotated[int, Meta(ge=0, lt=2**31)]
TEXT: Final = 2000
"""Limit of an error's text, in characters."""
Text = Annotated[str, Meta(max_length=TEXT)]


class Drawn(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """One token was drawn."""

    token: Count
    piece: Annotated[bytes, Meta(max_length=2**16)]
    likelihood: Likelihood | None = None
    """If it was requested."""
    part: Part | None = None
    """What it adds to the answer, if the engine has read that already."""


class Vector(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The prompt's vector, if it was requested."""

    numbers: tuple[float, ...]


class Admitted(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The request is in a queue. The first frame."""


class Begun(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """An engine has the request; from now on this node counts it."""


class Accepted(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """An engine works on the prompt: an answer follows."""

    prompt_tokens: Count = 0
    cached_tokens: Count = 0
    thinks: bool = False
    """Whether the prompt has opened the model's thoughts."""


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The answer is complete."""

    reason: FinishReason
    prompt_tokens: Count
    cached_tokens: Count
    unseen_tokens: Count = 0
    """Tokens of the answer that were not drawn one by one."""


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The answer ended in an error, which the code identifies."""

    status: Annotated[int, Meta(ge=400, le=599)]
    code: Text
    message: Text
    parameter: Text = ""
    """The field at fault; empty if there is none, or the node is of an earlier build."""


class Tokens(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """The prompt's tokens and text, if they were requested."""

    tokens: tuple[Count, ...]
    text: str


class Echoed(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """The prompt's tokens and text, if they were requested before the answer."""

    tokens: tuple[Token, ...]
    text: str


Frame = Drawn | Vector | Tokens | Echoed | Admitted | Begun | Accepted | Ended | Failed

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)
_request_decoder = msgspec.msgpack.Decoder(InferenceRequest)
_map_decoder = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
_DEFAULTS: Final = {field.name: field.default for field in dataclasses.fields(InferenceRequest)}


def pack_request(request: InferenceRequest) -> bytes:
    """Pack a request."""
    fields = ((name, getattr(request, name)) for name in _DEFAULTS)
    return _encoder.encode({name: one for name, one in fields if one != _DEFAULTS[name]})


def read_request(body: bytes) -> InferenceRequest:
    """Read a request.

    Raises:
        ValueError: It is not a request, or has an invalid time or trace.
        UnavailableError: It asks for something that only later builds know.
    """
    if unknown := sorted(_map_decoder.decode(body).keys() - _DEFAULTS.keys()):
        message = f"this node is of an earlier build and does not know {unknown[0][:TEXT]!r}"
        raise UnavailableError(f"{message}: upgrade it")
    request = _request_decoder.decode(body)
    for seconds in (request.waited_seconds, request.deadline_seconds or 0.0):
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"{seconds} is not a number of seconds")
    if request.trace is not None and not request.trace.is_valid:
        raise ValueError("its trace has invalid ids")
    return request


def failed(error: RequestError) -> Failed:
    """Return the frame that reports how an answer failed."""
    parameter = (error.parameter or "")[:TEXT]
    return Failed(error.status, (error.code or "")[:TEXT], str(error)[:TEXT], parameter)


def pack(frame: Frame) -> bytes:
    """Pack one frame."""
    packed = _encoder.encode(frame)
    return len(packed).to_bytes(4, "big") + packed


class FrameDecoder:
    """Reads frames from a stream of bytes."""

    def __init__(self) -> None:
        self._reader = FrameReader(_FRAME_BYTES)

    def feed(self, received: bytes) -> list[Frame]:
        """Add received bytes and return the frames that are now complete.

        Raises:
            ValueError: The stream contains no frames, or an invalid one.
        """
        frames = [_decoder.decode(frame) for frame in self._reader.feed(received)]
        for frame in frames:
            if isinstance(frame, Vector) and not all(map(math.isfinite, frame.numbers)):
                raise ValueError("a vector contains a value that is not a number")
        return frames
