"""A request ends exactly once, with a correct account of its time and tokens."""

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, trio_test

from node.errors import (
    ContextLengthError,
    DeadlineExceededError,
    EngineFailedError,
    QueueFullError,
    RequestError,
    UnavailableError,
)
from node.requests.account import Accounts
from node.requests.answer import Answer, Delta, Ending
from node.requests.attempt import Attempt
from node.requests.request import InferenceRequest, Sampling
from shared import wire
from shared.events.event import Event
from shared.events.requests import InferenceFinished, TokensGenerated
from tests.builders import resumptions


def opened(
    emitted: list[Event],
    *stops: str,
    streamed: bool = False,
    deadline_seconds: float | None = None,
    forwarded: bool = False,
    accounts: Accounts | None = None,
) -> Attempt:
    request = InferenceRequest(
        model_id="m",
        prompt="p",
        max_tokens=0,
        sampling=Sampling(0, 1, 1, 1, 1),
        stops=stops,
        streamed=streamed,
        deadline_seconds=deadline_seconds,
        forwarded=forwarded,
    )
    return Attempt(Answer(request), (accounts or Accounts(emitted.append)).open(request))


def drawn(emitted: Sequence[Event]) -> int:
    """Return how many tokens were reported."""
    return sum(event.count for event in emitted if isinstance(event, TokensGenerated))


def account(emitted: Sequence[Event]) -> InferenceFinished:
    """Return the only account of a request's end."""
    (ended,) = [event for event in emitted if isinstance(event, InferenceFinished)]
    return ended


async def read_all(asked: Attempt) -> tuple[str, Ending]:
    text = ""
    while isinstance(received := await asked.answer.receive(), Delta):
        text += received.text
    return text, received


@trio_test
async def test_phases_add_up_to_the_whole(autojump_clock: MockClock) -> None:
    """Queue, prefill and decode follow each other without gap or overlap."""
    emitted: list[Event] = []
    asked = opened(emitted)
    await trio.sleep(0.5)
    asked.begin()
    await trio.sleep(0.25)
    asked.evaluated(5, 5, 2)
    await trio.sleep(0.25)
    asked.sampled(7, b"a")
    await trio.sleep(2)
    asked.sampled(7, b"b")
    asked.finished("stop", "")
    await trio.sleep(8)
    asked.answer.close()
    ended = account(emitted)
    assert (ended.queue_seconds, ended.prefill_seconds, ended.decode_seconds) == (0.5, 0.5, 2)
    assert (ended.seconds, ended.first_token_seconds) == (3, 1)
    assert (ended.prompt_tokens, ended.cached_tokens, ended.generated_tokens) == (5, 2, 2)
    assert (ended.status, ended.finish_reason, ended.discarded_tokens) == ("ok", "stop", 0)
    assert autojump_clock.current_time() >= 11


@trio_test
async def test_phase_that_was_not_reached_took_no_time(autojump_clock: MockClock) -> None:
    """A request that ends in the queue has only queue time, and no first token."""
    del autojump_clock
    emitted: list[Event] = []
    asked = opened(emitted)
    await trio.sleep(4)
    asked.answer.close()
    ended = account(emitted)
    assert (ended.queue_seconds, ended.prefill_seconds, ended.decode_seconds) == (4, 0, 0)
    assert (ended.seconds, ended.first_token_seconds) == (4, None)
    assert (ended.status, ended.finish_reason) == ("cancelled", "cancelled")


@trio_test
async def test_caller_reads_the_text_and_the_ending() -> None:
    """The pieces arrive in order, a split character whole, then the end."""
    asked = opened([])
    asked.begin()
    asked.evaluated(3, 3, 0)
    for piece in (b"a", b"\xc3", b"\xa4"):
        asked.sampled(7, piece)
    asked.finished("length", "")
    assert await read_all(asked) == ("aä", Ending("length", 3, 0, 3))


@trio_test
async def test_what_is_left_of_the_text_comes_with_the_end() -> None:
    """Text held back for a stop sequence that did not come arrives with the end."""
    asked = opened([], "END")
    asked.begin()
    asked.sampled(7, b"the EN")
    asked.finished("length", "")
    assert (await read_all(asked))[0] == "the EN"


@trio_test
async def test_several_pieces_are_received_at_once() -> None:
    """`receive_several` returns all that has arrived, and then the ending."""
    asked = opened([])
    asked.begin()
    for piece in (b"a", b"b", b"c"):
        asked.sampled(7, piece)
    assert await asked.answer.receive() == Delta("a", 1)
    received = await asked.answer.receive_several()
    assert not isinstance(received, Ending)
    assert list(received) == [Delta("b", 1), Delta("c", 1)]
    assert asked.answer.read_tokens == 3
    asked.finished("stop", "")
    assert isinstance(await asked.answer.receive_several(), Ending)


@trio_test
async def test_reader_that_does_not_read_holds_nobody_up() -> None:
    """A reader that does not read never blocks the engine's side."""
    asked = opened([], "END")
    asked.begin()
    for _ in range(64):
        asked.sampled(7, b"E")
    asked.finished("length", "")
    assert (await read_all(asked))[0] == "E" * 64


@trio_test
async def test_tokens_are_reported_while_they_are_made(autojump_clock: MockClock) -> None:
    """Each report has the tokens since the last, even if no one wants them any more."""
    del autojump_clock
    emitted: list[Event] = []
    began = trio.current_time()
    accounts = Accounts(emitted.append)
    asked = opened(emitted, accounts=accounts)
    asked.begin()
    accounts.report()
    assert emitted == []
    asked.sampled(7, b"a")
    await trio.sleep(0.5)
    asked.sampled(7, b"b")
    accounts.report()
    accounts.report()
    asked.answer.close()
    await trio.sleep(2)
    asked.sampled(7, b"c")
    assert emitted == [TokensGenerated("m", 2, (began, began + 0.5))]
    accounts.report()
    assert emitted[1:] == [TokensGenerated("m", 1, (began + 0.5, began + 2.5))]
    asked.finished("cancelled", "")
    assert account(emitted).generated_tokens == 3
    before = list(emitted)
    accounts.report()
    assert emitted == before


@trio_test
async def test_pause_of_a_lost_engine_is_a_gap_between_tokens(autojump_clock: MockClock) -> None:
    """The gap between two tokens includes the time in which there was no engine."""
    del autojump_clock
    emitted: list[Event] = []
    asked = opened(emitted)
    asked.begin()
    began = trio.current_time()
    asked.sampled(7, b"a")
    await trio.sleep(1)
    asked.interrupted("crashed")
    await trio.sleep(3)
    asked.begin()
    asked.sampled(7, b"b")
    asked.finished("length", "")
    assert TokensGenerated("m", 1, (began, began + 4)) in emitted


@trio_test
async def test_tokens_of_a_request_that_another_node_counts_are_reported() -> None:
    """Tokens count on the node that drew them, also if it does not count the request."""
    emitted: list[Event] = []
    accounts = Accounts(emitted.append)
    asked = opened(emitted, accounts=accounts, forwarded=True)
    asked.begin()
    asked.sampled(7, b"a")
    asked.failed(UnavailableError("the node stopped"))
    accounts.report()
    assert drawn(emitted) == len(emitted) == 1


@trio_test
async def test_many_tokens_at_once_fit_in_events() -> None:
    """However many tokens a report has, each event fits in a batch, and no token is lost."""
    emitted: list[Event] = []
    accounts = Accounts(emitted.append)
    asked = opened(emitted, accounts=accounts)
    asked.begin()
    for _ in range(5000):
        asked.sampled(7, b"a")
    accounts.report()
    assert drawn(emitted) == 5000
    times = [event.drawn_at for event in emitted if isinstance(event, TokensGenerated)]
    assert all(one[-1] == two[0] for one, two in itertools.pairwise(times))
    assert all(len(msgspec.msgpack.encode(event)) < wire.EVENT_BYTES for event in emitted)


@trio_test
async def test_stop_sequence_ends_the_answer() -> None:
    """A stop sequence ends the answer and releases the engine."""
    emitted: list[Event] = []
    asked = opened(emitted, "END")
    asked.begin()
    asked.sampled(7, b"one E")
    wanted = [not asked.answer.over.is_set()]
    asked.sampled(7, b"ND")
    wanted.append(not asked.answer.over.is_set())
    assert wanted == [True, False]
    assert asked.let_go.is_set()
    assert not asked.over
    asked.sampled(7, b"more")
    asked.finished("cancelled", "")
    assert await read_all(asked) == ("one ", Ending("stop", 0, 0, 2))
    ended = account(emitted)
    assert (ended.status, ended.finish_reason, ended.discarded_tokens) == ("ok", "stop", 0)
    assert ended.generated_tokens == drawn(emitted) == 2


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("late", [0, 1, 5])
@trio_test
async def test_tokens_past_the_stop_are_not_counted(*, late: int, streamed: bool) -> None:
    """Tokens count up to and including the one that completes the stop sequence."""
    emitted: list[Event] = []
    asked = opened(emitted, "END", streamed=streamed)
    asked.begin()
    asked.evaluated(3, 3, 0)
    for piece in (b"one", b" E", b"ND", *[b"more"] * late):
        asked.sampled(7, piece)
    assert await read_all(asked) == ("one ", Ending("stop", 3, 0, 3))
    asked.answer.close()
    asked.finished("cancelled", "")
    ended = account(emitted)
    assert (ended.status, ended.generated_tokens, ended.discarded_tokens) == ("ok", 3, 0)
    assert drawn(emitted) == 3


@trio_test
async def test_stop_sequence_at_the_last_token_is_a_stop() -> None:
    """A stop sequence at the last allowed token is a stop, not a cut-off."""
    asked = opened([], "END")
    asked.begin()
    asked.sampled(7, b"one END")
    asked.finished("length", "")
    assert (await read_all(asked))[1].finish_reason == "stop"


@pytest.mark.parametrize(("streamed", "discarded"), [(True, 3), (False, 5)])
@trio_test
async def test_tokens_of_a_cancelled_answer_are_discarded(
    *, streamed: bool, discarded: int
) -> None:
    """After a cancel, unread tokens of a stream are discarded, and all tokens of a whole answer."""
    emitted: list[Event] = []
    asked = opened(emitted, streamed=streamed)
    asked.begin()
    for piece in (b"a", b"b"):
        asked.sampled(7, piece)
        await asked.answer.receive()
    for piece in (b"c", b"d"):
        asked.sampled(7, piece)
    asked.answer.close()
    asked.sampled(7, b"e")
    asked.finished("cancelled", "")
    ended = account(emitted)
    assert (ended.status, ended.generated_tokens) == ("cancelled", 5)
    assert ended.discarded_tokens == discarded


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (EngineFailedError("the engine crashed"), "error"),
        (UnavailableError("the node stopped"), "error"),
        (ContextLengthError("the prompt is too long"), "rejected"),
    ],
)
@trio_test
async def test_error_reaches_the_caller(error: RequestError, status: str) -> None:
    """An error ends the answer after its text, and counts by whose fault it is."""
    emitted: list[Event] = []
    asked = opened(emitted)
    asked.begin()
    asked.sampled(7, b"a")
    asked.failed(error)
    assert await asked.answer.receive() == Delta("a", 1)
    with pytest.raises(type(error)) as raised:
        await asked.answer.receive()
    assert raised.value is error
    ended = account(emitted)
    assert (ended.status, ended.finish_reason, ended.discarded_tokens) == (status, "error", 1)


@trio_test
async def test_prompt_that_is_too_long_is_refused() -> None:
    """A prompt that is too long is refused before the stream's status is sent."""
    emitted: list[Event] = []
    asked = opened(emitted)
    asked.begin()
    asked.finished("too_long", "the prompt has 90 tokens")
    with pytest.raises(ContextLengthError, match="90 tokens"):
        await asked.answer.wait_accepted()
    assert account(emitted).status == "rejected"


@trio_test
async def test_request_is_accepted_with_its_first_chunk(autojump_clock: MockClock) -> None:
    """A stream's status waits until the engine works on the prompt."""
    del autojump_clock
    asked = opened([])
    asked.begin()
    with trio.move_on_after(9) as waited:
        await asked.answer.wait_accepted()
    assert waited.cancelled_caught
    asked.evaluated(1, 9, 0)
    await asked.answer.wait_accepted()


@trio_test
async def test_interrupted_answer_goes_on_in_the_next_engine() -> None:
    """After a crash the next engine continues from the tokens so far."""
    emitted: list[Event] = []
    asked = opened(emitted)
    assert not asked.prior
    asked.begin()
    asked.evaluated(3, 3, 1)
    asked.sampled(7, b"a")
    asked.sampled(8, b"\xc3")
    asked.interrupted("crashed")
    assert asked.let_go.is_set()
    assert asked.prior == (7, 8)
    asked.begin()
    assert not asked.let_go.is_set()
    asked.evaluated(5, 5, 0)
    asked.sampled(9, b"\xa4")
    asked.finished("length", "")
    assert await read_all(asked) == ("aä", Ending("length", 3, 1, 3))
    assert drawn(emitted) == 3
    assert resumptions(emitted) == ["crashed"]
    ended = account(emitted)
    assert (ended.status, ended.prompt_tokens, ended.discarded_tokens) == ("ok", 3, 0)
    assert ended.resumed == 1


@trio_test
async def test_request_that_ends_every_engine_is_given_up() -> None:
    """A request is retried while it makes progress, and twice without any."""
    emitted: list[Event] = []
    asked = opened(emitted)
    for _ in range(5):
        asked.begin()
        asked.sampled(7, b"a")
        asked.interrupted("crashed")
    asked.begin()
    asked.interrupted("stalled")
    assert not asked.over
    asked.begin()
    asked.interrupted("stalled")
    assert isinstance(asked.answer.error, EngineFailedError)
    ended = account(emitted)
    assert (ended.status, ended.reason, ended.code) == ("error", "engine", "engine_failed")


@trio_test
async def test_interrupted_answer_that_nobody_waits_for_is_over() -> None:
    """After a cancel or a stop sequence there is no retry."""
    left: list[Event] = []
    asked = opened(left)
    asked.begin()
    asked.answer.close()
    asked.interrupted("crashed")
    stopped: list[Event] = []
    asked = opened(stopped, "END")
    asked.begin()
    asked.sampled(7, b"oneEND")
    asked.interrupted("crashed")
    assert (account(left).status, account(stopped).status) == ("cancelled", "ok")


@trio_test
async def test_caller_leaves_while_there_is_no_engine() -> None:
    """A caller that leaves between two engines ends the request at once."""
    emitted: list[Event] = []
    asked = opened(emitted)
    asked.begin()
    asked.sampled(7, b"a")
    asked.interrupted("crashed")
    asked.answer.close()
    assert account(emitted).status == "cancelled"


@trio_test
async def test_deadline_ends_a_request_that_waits(autojump_clock: MockClock) -> None:
    """The deadline includes the time in the queue."""
    emitted: list[Event] = []
    asked = opened(emitted, deadline_seconds=5)
    with pytest.raises(DeadlineExceededError):
        await asked.answer.wait_accepted()
    assert autojump_clock.current_time() == 5
    ended = account(emitted)
    assert (ended.status, ended.finish_reason, ended.queue_seconds) == ("timeout", "error", 5)


@trio_test
async def test_deadline_stops_the_engine(autojump_clock: MockClock) -> None:
    """The caller sees the deadline at once; the account is closed when the engine has stopped."""
    emitted: list[Event] = []
    asked = opened(emitted, deadline_seconds=5, streamed=True)
    asked.begin()
    asked.sampled(7, b"a")
    assert await asked.answer.receive() == Delta("a", 1)
    with pytest.raises(DeadlineExceededError):
        await asked.answer.receive()
    assert autojump_clock.current_time() == 5
    assert asked.let_go.is_set()
    assert not asked.over
    asked.sampled(8, b"b")
    asked.finished("cancelled", "")
    ended = account(emitted)
    assert (ended.status, ended.generated_tokens, ended.discarded_tokens) == ("timeout", 2, 1)


@trio_test
async def test_answer_that_was_done_in_time_is_read_to_its_end(autojump_clock: MockClock) -> None:
    """An answer that was finished before its deadline is delivered whole to a slow reader."""
    del autojump_clock
    emitted: list[Event] = []
    asked = opened(emitted, deadline_seconds=5, streamed=True)
    asked.begin()
    for token, piece in enumerate((b"a", b"b", b"c")):
        asked.sampled(token, piece)
    asked.finished("stop", "")
    await trio.sleep(6)
    assert await read_all(asked) == ("abc", Ending("stop", 0, 0, 3))
    assert account(emitted).status == "ok"


@trio_test
async def test_deadline_ends_an_answer_that_nobody_reads(autojump_clock: MockClock) -> None:
    """A slow reader keeps no engine beyond the deadline; it reads the rest, then the error."""
    del autojump_clock
    emitted: list[Event] = []
    asked = opened(emitted, deadline_seconds=5, streamed=True)
    asked.begin()
    asked.sampled(7, b"a")
    await trio.sleep(6)
    asked.sampled(8, b"b")
    assert asked.let_go.is_set()
    assert [await asked.answer.receive() for _ in "ab"] == [Delta("a", 1), Delta("b", 1)]
    with pytest.raises(DeadlineExceededError):
        await asked.answer.receive()
    asked.finished("cancelled", "")
    assert account(emitted).status == "timeout"


@trio_test
async def test_what_comes_after_the_end_changes_nothing() -> None:
    """Results after the end and a second cancel change nothing."""
    emitted: list[Event] = []
    asked = opened(emitted)
    asked.begin()
    asked.sampled(7, b"a")
    asked.finished("stop", "")
    before = list(emitted)
    asked.sampled(7, b"b")
    asked.finished("length", "")
    asked.failed(EngineFailedError("late"))
    asked.answer.close()
    asked.answer.close()
    assert emitted == before
    assert asked.over
    assert asked.answer.error is None


actions = st.lists(
    st.sampled_from(
        [
            ("wait",),
            ("evaluated", 2, 4, 1),
            ("sampled", 7, b"a"),
            ("sampled", 7, b"END"),
            ("sampled", 7, b"\xe2"),
            ("receive_several",),
            ("close",),
            ("finished", "stop", ""),
            ("finished", "length", ""),
            ("finished", "cancelled", ""),
            ("finished", "too_long", "why"),
            ("failed", EngineFailedError("crashed")),
            ("interrupted", "crashed"),
            ("interrupted", "stalled"),
        ]
    ),
    max_size=12,
)


@given(before=st.sampled_from([(), ("wait",), ("close",)]), then=actions, streamed=st.booleans())
def test_any_course_has_one_end_and_a_sound_account(
    before: tuple[str, ...], then: list[tuple[Any, ...]], *, streamed: bool
) -> None:
    """Any order of events gives one account with correct sums."""
    emitted: list[Event] = []

    async def live() -> None:
        asked = opened(emitted, "END", streamed=streamed)
        courses = [(name,) for name in before] + [("begin",), *then]
        for name, *arguments in courses:
            if name == "wait":
                await trio.sleep(0.25)
            elif name == "close":
                asked.answer.close()
            elif name == "receive_several":
                with trio.move_on_after(0.25), contextlib.suppress(RequestError):
                    await asked.answer.receive_several()
            elif not (name == "begin" and asked.over):
                getattr(asked, name)(*arguments)
                if name == "interrupted" and not asked.over:
                    asked.begin()
        asked.failed(UnavailableError("the node stopped"))
        assert asked.over

    trio.run(live, clock=MockClock(autojump_threshold=0))
    ended = account(emitted)
    phases = (ended.queue_seconds, ended.prefill_seconds, ended.decode_seconds)
    assert min(phases) >= 0
    assert sum(phases) == ended.seconds
    assert ended.generated_tokens == drawn(emitted)
    assert 0 <= ended.discarded_tokens <= ended.generated_tokens
    assert (ended.first_token_seconds is None) == (ended.generated_tokens == 0)
    assert emitted[-1] == ended


@trio_test
async def test_request_that_was_never_taken_in_took_no_time(autojump_clock: MockClock) -> None:
    """A request that was never admitted has no phases, so that phases and latency add up."""
    del autojump_clock
    emitted: list[Event] = []
    asked = opened(emitted)
    await trio.sleep(1)
    asked.reject(QueueFullError("full"))
    ended = account(emitted)
    assert (ended.status, ended.finish_reason) == ("rejected", None)
    assert (ended.seconds, ended.queue_seconds) == (0, 0)
