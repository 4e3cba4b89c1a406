"""What nodes ask of each other is signed, taken once, and read as it was written."""

import math

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, trio_test

from node.engine.protocol import Sampling
from node.errors import OtherModelError
from node.requests.generation import Delta, Generation, InferenceRequest, Token
from node.routing import wire
from node.routing.signature import WINDOW_SECONDS, Signer
from shared.events import Event, InferenceFinished, InferenceResumed, TokensGenerated

NOW = 1.6e9
FRAMES: list[wire.Frame] = [
    wire.Admitted(),
    wire.Accepted(),
    wire.Drawn(7, b"\xc3"),
    wire.Vector((0.5, 1.0)),
    wire.Ended("stop", 3, 1),
    wire.Failed(503, "stopped", "why"),
]


def request(**changed: object) -> InferenceRequest:
    """Give a request in which every field is set."""
    fields: dict[str, object] = {
        "model_id": "m",
        "prompt": "Once ä",
        "max_tokens": 9,
        "sampling": Sampling(0.8, 40, 0.95, 1.1, -5),
        "stops": ("END", "\n"),
        "streamed": True,
        "request_id": "r",
        "client": "key:1",
        "deadline_seconds": 2.5,
        "forwarded": True,
        "prior": (Token(7, b"\xc3"), Token(8, b"\xa4")),
        "fingerprint": "f1",
    }
    return InferenceRequest(**(fields | changed))  # type: ignore[arg-type]


def test_question_is_read_back_the_same() -> None:
    """Another node reads what was asked, a text or a chat."""
    assert wire.read_request(wire.pack_request(request())) == request()
    chat = request(prompt=({"role": "user", "content": "ä"},))
    assert wire.read_request(wire.pack_request(chat)) == chat


@given(garbage=st.binary(max_size=64))
def test_garbage_is_no_question(garbage: bytes) -> None:
    """What cannot be read is refused with the one error that is expected."""
    with pytest.raises(ValueError):  # noqa: PT011 - msgspec says what is wrong in many ways
        wire.read_request(garbage)


@given(size=st.integers(1, 40))
def test_frames_are_read_from_any_pieces(size: int) -> None:
    """However the stream comes, the frames come out whole and in order."""
    stream = b"".join(map(wire.pack, FRAMES))
    decoder = wire.FrameDecoder()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert [frame for piece in pieces for frame in decoder.feed(piece)] == FRAMES


def test_signature_proves_the_secret_the_question_and_the_time() -> None:
    """Another secret, another question or another time is no proof; an older secret may be."""
    signer = Signer(["secret"])
    value = signer.sign(b"question", NOW)
    assert not Signer(["other"]).check(value, b"question", NOW)
    assert not signer.check(value, b"another", NOW)
    assert not signer.check(value, b"question", NOW + WINDOW_SECONDS + 1)
    assert not signer.check(value, b"question", NOW - WINDOW_SECONDS - 1)
    moved = f"{int(NOW) + 5}.{value.partition('.')[2]}"
    assert not signer.check(moved, b"question", NOW)
    assert Signer(["new", "secret"]).check(value, b"question", NOW + WINDOW_SECONDS)


def test_signature_is_taken_once() -> None:
    """Who listens on the network cannot ask again; the memory ends with the window."""
    signer = Signer(["secret"])
    value = signer.sign(b"question", NOW)
    assert signer.check(value, b"question", NOW)
    assert not signer.check(value, b"question", NOW)
    later = NOW + 2 * WINDOW_SECONDS
    assert signer.check(signer.sign(b"question", later), b"question", later)
    assert signer._taken._count == 1


def test_memory_of_signatures_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """More requests than can be remembered are refused until their window has passed."""
    monkeypatch.setattr("node.routing.signature._REMEMBERED", 3)
    signer = Signer(["secret"])
    values = [signer.sign(bytes([number]), NOW + number) for number in range(4)]
    taken = [signer.check(value, bytes([i]), NOW) for i, value in enumerate(values)]
    assert taken == [True, True, True, False]
    later = NOW + WINDOW_SECONDS + 1  # the first of them is too old to be sent again
    assert signer.check(signer.sign(b"new", later), b"new", later)
    assert not signer.check(values[1], bytes([1]), later)
    assert not signer.check(values[3], bytes([3]), later)


@pytest.mark.parametrize("value", ["", ".", "1", "1600000000.", "x.y", "²." + "0" * 64, "9" * 99])
def test_malformed_signature_is_none(value: str) -> None:
    """Whatever stands in the header, the answer is no, not an error."""
    assert not Signer([""]).check(value, b"", NOW)


@trio_test
async def test_rest_of_an_answer_is_what_another_node_needs(autojump_clock: MockClock) -> None:
    """It has the tokens that came and the time that is left."""
    del autojump_clock
    first = Generation(request(prior=(), forwarded=False), lambda _: None, 64)
    await trio.sleep(1)
    first.begin("f0")
    first.interrupted("peer_lost")
    first.begin("f1")  # before the first token any model of that name will do
    first.sampled(7, b"\xc3")
    rest = first.remainder()
    assert rest == request(prior=(Token(7, b"\xc3"),), deadline_seconds=1.5)
    with pytest.raises(OtherModelError):
        first.begin("f2")
    first.begin("")  # it will see itself
    assert first.remainder().fingerprint == "f1"
    unbound = Generation(request(deadline_seconds=None), lambda _: None, 64)
    assert unbound.remainder().deadline_seconds is None


@trio_test
async def test_node_that_goes_on_accounts_for_its_own_part() -> None:
    """Another node's tokens shape the text and are in that node's account."""
    emitted: list[Event] = []
    asked = Generation(request(stops=("äb",), deadline_seconds=None), emitted.append, 64)
    assert asked.begin().prior == (7, 8)
    asked.evaluated(5, 5, 0)
    asked.sampled(9, b"b")
    assert asked.unwanted  # the stop sequence began in the part that another node had sent
    assert await asked.receive() == Delta("", 1, Token(9, b"b"))
    asked.finished("cancelled", "")
    assert emitted[:2] == [InferenceResumed("m", "peer_lost"), TokensGenerated("m", 1)]
    (ended,) = [event for event in emitted if isinstance(event, InferenceFinished)]
    assert (ended.status, ended.generated_tokens, ended.prompt_tokens) == ("ok", 1, 3)


@trio_test
async def test_adopted_answer_is_accounted_from_here_on() -> None:
    """What was another node's is not counted again; the caller reads one text."""
    silent: list[Event] = []
    emitted: list[Event] = []
    asked = Generation(
        request(prior=(), stops=(), forwarded=False, deadline_seconds=math.inf), silent.append, 64
    )
    asked.begin()
    asked.sampled(7, b"a")
    asked.interrupted("peer_lost")
    silent.clear()
    asked.adopt(emitted.append, lambda _: None)
    assert asked.begin().prior == (7,)
    asked.evaluated(4, 4, 0)
    asked.sampled(8, b"b")
    asked.finished("length", "")
    text = ""
    while isinstance(delta := await asked.receive(), Delta):
        text += delta.text
    assert (text, delta.generated_tokens) == ("ab", 2)
    (ended,) = [event for event in emitted if isinstance(event, InferenceFinished)]
    assert (ended.generated_tokens, ended.discarded_tokens) == (1, 0)
    assert InferenceResumed("m", "peer_lost") in emitted
    assert not silent
