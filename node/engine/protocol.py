"""What the node and an engine child say to each other: framed msgpack over two pipes.

The child reads commands on its standard input and writes results on a pipe of their own, never
on standard output, which libraries print to. A frame is its length in 4 bytes, big-endian, then
one tagged msgpack array.
"""

from typing import Final

import msgspec

from node.requests.request import EndReason, Prompt, Sampling

HEADER_BYTES: Final = 4
FRAME_BYTES: Final = 64 * 2**20
"""A longer frame is a broken pipe's garbage, not a message."""


class Load(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Describe the model at `path`, the first command; load it once `Proceed` comes."""

    path: bytes
    """As the system has it: the name of a file need not be UTF-8."""
    context_length: int
    """Positions to keep; 0 for as many as the model was trained with."""
    threads: int
    batch_tokens: int
    """Prompt tokens per evaluation: progress is seen and a cancel heard between two."""


class Proceed(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """There is memory for the model that was described: load it."""


class Generate(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Continue `prompt`. One at a time: the next is read when this one has finished."""

    request: int
    prompt: Prompt
    max_tokens: int
    """0 for as many as the context holds; those in `prior` count."""
    sampling: Sampling
    prior: tuple[int, ...] = ()
    """Tokens of the answer that an earlier child drew: evaluated after the prompt, so that the
    next one is what it would have been there."""
    embed: bool = False
    """Whether the vector of the prompt is wanted, not a text."""


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Stop the request at its next token or prompt chunk."""

    request: int


class Described(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """What the header of the model file says; sent before the weights are read."""

    engine: str
    architecture: str
    quantization: str
    size_bytes: int
    layers: int
    context_length: int
    position_bytes: int
    """Memory that each position of the context takes."""
    fingerprint: str = ""
    """The same for the same file, another one for other weights."""


class Read(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """So much of the model's file has been read into memory."""

    done_bytes: int
    total_bytes: int


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """The model is ready; `context_length` is the one in use."""

    context_length: int


class LoadFailed(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """The model cannot be used: the cause and the remedy in one line. The child ends."""

    message: str


class Evaluated(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """A prompt chunk was evaluated, `done` of `total` tokens; `cached` of them needed no work."""

    request: int
    done: int
    total: int
    cached: int


class Sampled(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """One token was drawn; `text` is its bytes, perhaps part of a character."""

    request: int
    token: int
    text: bytes


class Embedded(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """What the model made of the whole prompt, as a vector of length 1."""

    request: int
    vector: tuple[float, ...]


class Finished(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """The request is over and the engine free."""

    request: int
    reason: EndReason
    message: str
    """For the last three, what is wrong with the prompt."""


Command = Load | Proceed | Generate | Cancel
Result = Described | Read | Loaded | LoadFailed | Evaluated | Sampled | Embedded | Finished

_encoder = msgspec.msgpack.Encoder()
command_decoder = msgspec.msgpack.Decoder(Command)
result_decoder = msgspec.msgpack.Decoder(Result)


def frame(message: Command | Result) -> bytes:
    """Encode one message with its length before it."""
    packed = _encoder.encode(message)
    return len(packed).to_bytes(HEADER_BYTES, "big") + packed


class FrameReader:
    """Cuts a stream of bytes into frames.

    Args:
        limit_bytes: A longer frame is none.
    """

    def __init__(self, limit_bytes: int = FRAME_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()

    def feed(self, received: bytes | bytearray) -> list[bytes]:
        """Take what arrived and return the frames that are now whole.

        Raises:
            ValueError: The stream holds no frames.
        """
        self._buffer += received
        frames = []
        start = 0
        while len(self._buffer) - start >= HEADER_BYTES:
            body = start + HEADER_BYTES
            length = int.from_bytes(self._buffer[start:body], "big")
            if length > self._limit_bytes:
                raise ValueError(f"a frame of {length} bytes")
            if len(self._buffer) - body < length:
                break
            frames.append(bytes(self._buffer[body : body + length]))
            start = body + length
        del self._buffer[:start]
        return frames
