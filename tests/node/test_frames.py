"""Frames between node and engine child: read from any stream; garbage is detected."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine import protocol
from node.engine.protocol import FrameReader, frame
from node.requests.request import Candidate, Chat, Likelihood, Sampling, Token

SAMPLING = Sampling(0.8, 40, 0.95, 1.0, 7)
COMMANDS = [
    protocol.Load(b"/m\xff.gguf", 0, 2, 64),
    protocol.Generate(1, "Once ä", 0, SAMPLING, (5, 6)),
    protocol.Generate(1, Chat(({"role": "user", "content": "Once ä"},)), 0, SAMPLING),
    protocol.Generate(1, (7, 8), 0, SAMPLING),
    protocol.Tokenize(1, (7, 8)),
    protocol.Cancel(1),
]
RESULTS = [
    protocol.Read(1, 2),
    protocol.Loaded(256),
    protocol.LoadFailed("why"),
    protocol.Evaluated(1, 2, 3, 0),
    protocol.Sampled(1, 9, b"\xe2\x82"),
    protocol.Sampled(1, 9, b"a", Likelihood(-0.5, (Candidate(9, b"a", -0.5),))),
    protocol.Echoed(1, (Token(9, b"a"),), "a"),
    protocol.ThoughtsOpened(1),
    protocol.Finished(1, "too_long", "why"),
]


@given(
    bodies=st.lists(st.binary(max_size=12), max_size=6), size=st.integers(min_value=1, max_value=9)
)
def test_frames_are_cut_from_any_pieces(bodies: list[bytes], size: int) -> None:
    """Frames are read from a stream in any pieces."""
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    reader = FrameReader()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert [read for piece in pieces for read in reader.feed(piece)] == bodies


def test_frame_is_given_with_its_last_byte() -> None:
    """A frame is returned with its last byte, not earlier or later."""
    whole = frame(protocol.Cancel(3))
    reader = FrameReader()
    assert reader.feed(whole[:-1]) == []
    assert reader.feed(whole[-1:]) == [whole[4:]]


def test_garbage_is_no_frame() -> None:
    """An impossible length is garbage."""
    with pytest.raises(ValueError, match="frame of"):
        FrameReader().feed(b"\xff\xff\xff\xff")


def test_longest_frame_is_allowed() -> None:
    """The longest frame is allowed."""
    assert FrameReader().feed(protocol.FRAME_BYTES.to_bytes(4, "big")) == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda m: type(m).__name__)
def test_command_is_read_back_the_same(command: protocol.Command) -> None:
    """The child reads what the node wrote."""
    (read,) = FrameReader().feed(frame(command))
    assert protocol.command_decoder.decode(read) == command


@pytest.mark.parametrize("result", RESULTS, ids=lambda m: type(m).__name__)
def test_result_is_read_back_the_same(result: protocol.Result) -> None:
    """The node reads what the child wrote, bytes of half a character included."""
    (read,) = FrameReader().feed(frame(result))
    assert protocol.result_decoder.decode(read) == result


def test_command_is_no_result() -> None:
    """A command is never read as a result, or the other way round."""
    (read,) = FrameReader().feed(frame(protocol.Cancel(1)))
    with pytest.raises(msgspec.ValidationError):
        protocol.result_decoder.decode(read)
