"""Forwarded requests are signed, accepted once, and read as they were written."""

import math

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, trio_test

from node.errors import (
    DeadlineExceededError,
    EngineFailedError,
    InvalidRequestError,
    OtherModelError,
    QueueFullError,
    RequestError,
    UnavailableError,
)
from node.requests.account import Accounts
from node.requests.answer import Answer, Delta
from node.requests.attempt import Attempt
from node.requests.request import (
    Candidate,
    Chat,
    InferenceRequest,
    Likelihood,
    Sampling,
    Token,
)
from node.routing import wire
from node.routing.signature import WINDOW_SECONDS, Signer
from shared.events.event import Event
from shared.events.requests import InferenceFinished, TokensGenerated
from tests.builders import TRACE, resumptions

NOW = 1.6e9
LIKELY = Likelihood(-0.5, (Candidate(9, b"\xa4", -0.25),))
FRAMES: list[wire.Frame] = [
    wire.Admitted(),
    wire.Begun(),
    wire.Accepted(),
    wire.Accepted(3, 1, thinks=True),
    wire.Drawn(7, b"\xc3"),
    wire.Drawn(7, b"\xc3", LIKELY),
    wire.Echoed((Token(7, b"so"), Token(8, b" a", LIKELY)), "so a"),
    wire.Vector((0.5, 1.0)),
    wire.Tokens((7, 8), "ä"),
    wire.Ended("stop", 3, 1),
    wire.Failed(503, "stopped", "why"),
]


def request(**changed: object) -> InferenceRequest:
    """Return a request with every field set."""
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
        "logprobs": 1,
        "echo": True,
        "prior": (Token(7, b"\xc3"), Token(8, b"\xa4", LIKELY)),
        "fingerprint": "f1",
        "only_if_free": True,
        "waited_seconds": 1.5,
        "route": "/v1/completions",
        "trace": TRACE,
    }
    return InferenceRequest(**(fields | changed))  # type: ignore[arg-type]


def test_question_is_read_back_the_same() -> None:
    """Another node reads the same request, for texts and chats."""
    assert wire.read_request(wire.pack_request(request())) == request()
    for prompt in (Chat(({"role": "user", "content": "ä"},), {"thinks": True}), (7, 8)):
        asked = request(prompt=prompt)
        assert wire.read_request(wire.pack_request(asked)) == asked


def test_question_of_a_later_build_is_refused_by_name() -> None:
    """A field that this node does not know is refused as a fault of this node, not ignored."""
    packed = msgspec.msgpack.decode(wire.pack_request(request()))
    later = msgspec.msgpack.encode(packed | {"thinks_twice": True})
    with pytest.raises(UnavailableError, match="'thinks_twice'") as refused:
        wire.read_request(later)
    assert refused.value.others_may_answer


def test_question_without_later_features_is_one_that_earlier_builds_know() -> None:
    """Fields with their default are not sent, so an earlier build has nothing to refuse."""
    plain = InferenceRequest(
        model_id="m", prompt="p", max_tokens=1, sampling=Sampling(0, 1, 1, 1, 0), forwarded=True
    )
    sent = msgspec.msgpack.decode(wire.pack_request(plain))
    assert sent.keys() == {"model_id", "prompt", "max_tokens", "sampling", "forwarded"}
    assert wire.read_request(wire.pack_request(plain)) == plain


def test_frame_of_another_build_is_read_or_garbage() -> None:
    """Further values are ignored, missing ones have their default; an unknown kind is garbage."""

    def read(*values: object) -> list[wire.Frame]:
        packed = msgspec.msgpack.encode(values)
        return wire.FrameDecoder().feed(len(packed).to_bytes(4, "big") + packed)

    assert read(4, "stop", 3, 1, 0, "later") == [wire.Ended("stop", 3, 1)]
    assert read(5, 400, "", "earlier") == [wire.Failed(400, "", "earlier")]
    with pytest.raises(ValueError, match="99"):
        read(99, "later")


@pytest.mark.parametrize("parameter", ["response_format", None])
def test_failure_names_the_field_that_the_peer_names(parameter: str | None) -> None:
    """A refusal of a peer names the same field for the caller."""
    frame = wire.failed(InvalidRequestError("no", parameter=parameter))
    assert frame.parameter == (parameter or "")


@given(garbage=st.binary(max_size=64))
def test_garbage_is_no_question(garbage: bytes) -> None:
    """Garbage raises the one expected error."""
    with pytest.raises(ValueError):  # noqa: PT011 - msgspec says what is wrong in many ways
        wire.read_request(garbage)


@given(size=st.integers(1, 40))
def test_frames_are_read_from_any_pieces(size: int) -> None:
    """Frames are read from a stream in any pieces."""
    stream = b"".join(map(wire.pack, FRAMES))
    decoder = wire.FrameDecoder()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert [frame for piece in pieces for frame in decoder.feed(piece)] == FRAMES


def test_signature_proves_the_secret_the_question_and_the_time() -> None:
    """A signature is valid for its secret, request and time; older secrets may be accepted."""
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
    """A signature is accepted once, and forgotten after its window."""
    signer = Signer(["secret"])
    value = signer.sign(b"question", NOW)
    assert signer.check(value, b"question", NOW)
    assert not signer.check(value, b"question", NOW)
    later = NOW + 2 * WINDOW_SECONDS
    assert signer.check(signer.sign(b"question", later), b"question", later)
    assert signer._taken._count == 1


def test_memory_of_signatures_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests beyond the remembered number are refused until their window has passed."""
    monkeypatch.setattr("node.routing.signature._REMEMBERED", 3)
    signer = Signer(["secret"])
    values = [signer.sign(bytes([number]), NOW + number) for number in range(4)]
    taken = [signer.check(value, bytes([i]), NOW) for i, value in enumerate(values)]
    assert taken == [True, True, True, False]
    later = NOW + WINDOW_SECONDS + 1  # the first of them is too old to be repeated
    assert signer.check(signer.sign(b"new", later), b"new", later)
    assert not signer.check(values[1], bytes([1]), later)
    assert not signer.check(values[3], bytes([3]), later)


@pytest.mark.parametrize("value", ["", ".", "1", "1600000000.", "x.y", "²." + "0" * 64, "9" * 99])
def test_malformed_signature_is_none(value: str) -> None:
    """A malformed signature is not valid, and raises nothing."""
    assert not Signer([""]).check(value, b"", NOW)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("field", ["deadline_seconds", "waited_seconds"])
def test_question_with_a_time_that_is_none_is_refused(field: str, seconds: float) -> None:
    """A request with an impossible time is refused."""
    with pytest.raises(ValueError, match="number of seconds"):
        wire.read_request(wire.pack_request(request(**{field: seconds})))


@pytest.mark.parametrize(
    "frame",
    [
        wire.Drawn(-1, b"a"),
        wire.Drawn(2**40, b"a"),
        wire.Drawn(1, b"a" * 2**17),
        wire.Vector((0.5, math.nan)),
        wire.Ended("stop", -1, 0),
        wire.Failed(200, "", ""),
        wire.Failed(10**6, "", ""),
        wire.Failed(503, "", "x" * 10**5),
    ],
)
def test_frame_that_makes_no_sense_is_garbage(frame: wire.Frame) -> None:
    """A frame with a number out of its range is garbage."""
    with pytest.raises(ValueError):  # noqa: PT011 - msgspec says what is wrong in many ways
        wire.FrameDecoder().feed(wire.pack(frame))


def attempt(asked: InferenceRequest, emitted: list[Event]) -> Attempt:
    """Return an attempt at a new answer."""
    return Attempt(Answer(asked), Accounts(emitted.append).open(asked))


def ends(emitted: list[Event]) -> list[InferenceFinished]:
    """Return the accounts."""
    return [event for event in emitted if isinstance(event, InferenceFinished)]


@trio_test
async def test_rest_of_an_answer_is_what_another_node_needs(autojump_clock: MockClock) -> None:
    """The next node gets the tokens so far, the remaining time, and the time in the queue."""
    del autojump_clock
    own = request(prior=(), forwarded=False, only_if_free=False, waited_seconds=0.0)
    answer = Answer(own)
    await trio.sleep(1)
    rest = answer.remainder(only_if_free=True, trace=TRACE)
    assert rest == request(prior=(), fingerprint="", deadline_seconds=1.5, waited_seconds=1.0)
    answer.begin("f0")
    answer.begin("f1")  # before the first token, any model of that name is suitable
    answer.take(Token(7, b"\xc3"), trio.current_time())
    rest = answer.remainder(only_if_free=False, trace=TRACE)
    changed = {"deadline_seconds": 1.5, "only_if_free": False, "waited_seconds": 0.0}
    assert rest == request(prior=(Token(7, b"\xc3"),), **changed)
    with pytest.raises(OtherModelError):
        answer.begin("f2")
    answer.begin("")  # it will find the stop itself
    assert answer.remainder(only_if_free=False).fingerprint == "f1"
    unbound = Answer(request(deadline_seconds=None)).remainder(only_if_free=False)
    assert unbound.deadline_seconds is None


@trio_test
async def test_node_that_goes_on_accounts_for_its_own_part() -> None:
    """Another node's tokens are part of the text, but count in that node's account."""
    emitted: list[Event] = []
    asked = attempt(request(stops=("äb",), deadline_seconds=None), emitted)
    assert asked.prior == (7, 8)
    asked.begin()
    asked.evaluated(5, 5, 0)
    asked.sampled(9, b"b")  # the stop sequence began in the part of the other node
    assert asked.answer.over.is_set()
    assert await asked.answer.receive() == Delta("", 1, Token(9, b"b"))
    asked.finished("cancelled", "")
    assert resumptions(emitted[:1]) == ["peer_lost"]
    counts = [event.count for event in emitted if isinstance(event, TokensGenerated)]
    assert counts == [1]
    (ended,) = ends(emitted)
    assert (ended.status, ended.generated_tokens, ended.prompt_tokens) == ("ok", 1, 3)


@trio_test
async def test_next_attempt_has_an_account_of_its_own() -> None:
    """A lost peer's tokens are in its own account; the caller reads one text."""
    emitted: list[Event] = []
    own = request(prior=(), stops=(), forwarded=False, deadline_seconds=math.inf)
    first = attempt(own, emitted)
    assert first.take_over()
    answer = first.answer
    answer.begin("f1")
    answer.take(Token(7, b"a"), trio.current_time())
    second = Attempt(answer, Accounts(emitted.append).open(own))
    assert second.prior == (7,)
    second.begin()
    second.evaluated(4, 4, 0)
    second.sampled(8, b"b")
    second.finished("length", "")
    text = ""
    while isinstance(delta := await answer.receive(), Delta):
        text += delta.text
    assert (text, delta.generated_tokens, delta.prompt_tokens) == ("ab", 2, 3)
    (ended,) = ends(emitted)
    assert (ended.generated_tokens, ended.discarded_tokens) == (1, 0)
    assert resumptions(emitted) == ["peer_lost"]


@trio_test
async def test_request_that_a_peer_took_over_is_counted_there(autojump_clock: MockClock) -> None:
    """A request that a peer began ends there only, with its time in the queue here included."""
    del autojump_clock
    here: list[Event] = []
    there: list[Event] = []
    asked = attempt(request(prior=(), forwarded=False, waited_seconds=0.0), here)
    await trio.sleep(2)
    rest = attempt(asked.answer.remainder(only_if_free=True), there)
    rest.begin()
    assert asked.take_over()
    assert not asked.take_over()
    rest.sampled(7, b"a")
    rest.finished("stop", "")
    asked.answer.close()
    assert not here
    (ended,) = ends(there)
    assert (ended.queue_seconds, ended.first_token_seconds) == (2.0, 2.0)


@pytest.mark.parametrize("end", ["left", "refused", "out of time", "stopping"])
@trio_test
async def test_forwarded_request_that_was_not_begun_is_not_counted(end: str) -> None:
    """A forwarded request that was not begun is not counted here."""
    emitted: list[Event] = []
    asked = attempt(request(), emitted)
    if end == "left":
        asked.answer.close()
    elif end == "refused":
        asked.reject(QueueFullError("full"))
    else:
        error = DeadlineExceededError("late") if end == "out of time" else UnavailableError("x")
        asked.failed(error)
    assert asked.over
    assert not emitted


@pytest.mark.parametrize(
    ("error", "counted"), [(UnavailableError("the node stopped"), 0), (EngineFailedError("x"), 1)]
)
@trio_test
async def test_forwarded_request_counts_where_it_ends(error: RequestError, counted: int) -> None:
    """A forwarded request counts on the node where it ends."""
    emitted: list[Event] = []
    asked = attempt(request(), emitted)
    asked.begin()
    asked.failed(error)
    assert len(ends(emitted)) == counted
