"""The messages between the node and an engine, whichever engine it is.

Requests are told apart by their numbers. To an engine child, messages travel as frames: the length
in 4 bytes, big-endian, then one tagged msgpack array.
"""

from typing import Any, Final, Literal

import msgspec

from node.engine.shape import NO_SHAPE, Shape
from node.requests.parts import Part
from node.requests.request import EndReason, Likelihood, Prompt, Sampling, Token
from shared.events.engine import RestartReason

OwnEngineName = Literal["ctransformers", "llama.cpp"]
EngineName = OwnEngineName | Literal["upstream"]

HEADER_BYTES: Final = 4
FRAME_BYTES: Final = 64 * 2**20
"""A longer frame is garbage from a broken pipe, not a message."""


class Load(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Load the model at `path`; the first command."""

    path: bytes
    """As the system has it: a file name need not be UTF-8."""
    context_length: int
    """Positions to keep for each slot."""
    threads: int
    batch_tokens: int
    """Prompt tokens per evaluation. Progress is reported and cancels are read between two
    evaluations."""
    slots: int = 1
    """Requests to work on at once."""
    embeds: bool = False
    """Whether it is an embedding model, which returns vectors only."""
    ranks: bool = False
    """Whether its vectors are single numbers: the score of a document for a query, which a prompt
    has as two turns of the roles `query` and `document`. Then `embeds` is set too."""


class Generate(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Continue `prompt`. At most as many at once as the engine has slots."""

    request: int
    prompt: Prompt
    max_tokens: int
    """0 for as many as fit in the context; those in `prior` count."""
    sampling: Sampling
    prior: tuple[int, ...] = ()
    """Tokens of the answer that an earlier engine drew. They are evaluated after the prompt, so
    that the next token is the same as it would have been there."""
    embed: bool = False
    """Whether to return the prompt's vector instead of a text."""
    min_tokens: int = 0
    """Tokens before which the model's own end is not drawn; those in `prior` count."""
    schema: dict[str, Any] | None = None
    """A JSON schema that the whole answer must match."""
    logprobs: int | None = None
    """Likeliest tokens to report at each position with the drawn one's likelihood; None for
    neither."""
    echo: bool = False
    """Whether to return the prompt's tokens first; not if there are `prior` ones."""
    echo_only: bool = False
    """Whether to draw no token after them."""
    strict: tuple[str, ...] = ()
    """Names of the chat's tools whose arguments must match their schemas, if they are called."""
    said: tuple[Token, ...] = ()
    """The tokens of `prior` with what each adds to the answer."""


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Stop the request at its next token or prompt chunk."""

    request: int


class Tokenize(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Return the tokens and the text of `prompt`, without evaluating it."""

    request: int
    prompt: Prompt


class Described(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """A model file's description of itself, and how an engine is to load it."""

    engine: EngineName
    architecture: str
    quantization: str
    size_bytes: int
    """Of the weights."""
    layers: int
    context_length: int
    """Positions of each slot."""
    position_bytes: int
    """Memory per position of one slot."""
    fingerprint: str = ""
    """Equal for the same file, different for other weights."""
    slots: int = 1
    embeds: bool = False
    """Whether it is an embedding model, which returns vectors only."""
    ranks: bool = False
    """Whether its vector is the score of a document for a query."""
    buffer_bytes: int = 0
    """Memory of an evaluation, besides weights and context; an estimate."""
    shape: Shape = NO_SHAPE
    """The sizes of its parts."""

    @property
    def needed_bytes(self) -> int:
        """All the memory that it takes on a node that holds it whole."""
        context_bytes = self.slots * self.context_length * self.position_bytes
        return self.size_bytes + context_bytes + self.buffer_bytes


class Read(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """This much of the model's file was read into memory."""

    done_bytes: int
    total_bytes: int


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """The model is ready."""

    context_length: int
    """Positions of each slot, as in use."""
    slots: int = 1
    build: str = ""
    """The engine's version, where it reports one."""
    devices: tuple[tuple[str, int], ...] = ()
    """Devices that hold the model and the bytes that it uses there, where the engine reports
    them."""


class LoadFailed(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """The model cannot be used; the text is one line with cause and remedy. The engine ends."""

    message: str


class Evaluated(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """`done` of `total` tokens of the prompt are evaluated; `cached` of them needed no work."""

    request: int
    done: int
    total: int
    cached: int


class Sampled(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """One token was drawn; `text` is its bytes, perhaps part of a character."""

    request: int
    token: int
    text: bytes
    likelihood: Likelihood | None = None
    """If the request asked for it."""


class Echoed(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """The prompt's text, and its tokens if their likelihoods are wanted."""

    request: int
    tokens: tuple[Token, ...]
    text: str


class ThoughtsOpened(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """The prompt ends with the mark that opens the model's thoughts; the answer begins in them."""

    request: int


class Said(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """One token's part of the answer, from an engine that reads the parts of answers itself."""

    request: int
    part: Part


class Counted(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """The tokens of a request as the engine counted them, at its end."""

    request: int
    prompt_tokens: int
    """0 if unknown."""
    cached_tokens: int
    unseen_tokens: int
    """Tokens of the answer beyond those that were reported one by one."""


class Declined(msgspec.Struct, frozen=True, array_like=True, tag=23):
    """The engine cannot begin the request now."""

    request: int


class Dropped(msgspec.Struct, frozen=True, array_like=True, tag=24):
    """The engine has lost the request but works on."""

    request: int
    reason: RestartReason


class Resized(msgspec.Struct, frozen=True, array_like=True, tag=25):
    """From now on the engine works on this many requests at once."""

    slots: int


class Embedded(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """The model's vector for the whole prompt, of length 1."""

    request: int
    vector: tuple[float, ...]


class Tokenized(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """The prompt as the model would get it, in tokens and as text."""

    request: int
    tokens: tuple[int, ...]
    text: str


class Finished(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """The request has ended and its slot is free."""

    request: int
    reason: EndReason
    message: str
    """For the last three, what is wrong with the prompt."""
    drafted: int = 0
    """Tokens that the engine guessed ahead for the request, where it does."""
    accepted: int = 0
    """How many of them the model would have drawn itself."""
    parameter: str = ""
    """The request's field that is at fault, if one is."""


NO_PROGRESS: Final = (Resized, Declined, Dropped)
"""Results that say that an engine has not worked."""

Command = Load | Generate | Tokenize | Cancel
Ended = Declined | Dropped | Finished
JobResult = (
    Evaluated | Sampled | Said | Counted | Echoed | ThoughtsOpened | Embedded | Tokenized | Ended
)
Result = Read | Loaded | LoadFailed | Resized | JobResult

_encoder = msgspec.msgpack.Encoder()
command_decoder = msgspec.msgpack.Decoder(Command)
result_decoder = msgspec.msgpack.Decoder(Result)


def frame(message: Command | Result) -> bytes:
    """Encode one message with its length in front."""
    packed = _encoder.encode(message)
    return len(packed).to_bytes(HEADER_BYTES, "big") + packed


class FrameReader:
    """Splits a stream of bytes into frames.

    Args:
        limit_bytes: A longer frame is invalid.
    """

    def __init__(self, limit_bytes: int = FRAME_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()

    def feed(self, received: bytes | bytearray) -> list[bytes]:
        """Add received bytes and return the frames that are now complete.

        Raises:
            ValueError: The stream contains no frames.
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
