"""Requests to an engine elsewhere: parts, unknown tokens, and an engine that declines."""

import pytest
import trio
from trio.testing import MockClock, trio_test, wait_all_tasks_blocked

from node.api.parts.chat import ChatReader
from node.api.parts.forced import NamedCallReader
from node.api.parts.part import DeltaReader, collect
from node.engine import protocol
from node.errors import OtherModelError
from node.requests.account import Accounts
from node.requests.answer import Answer, Delta
from node.requests.attempt import Attempt
from node.requests.parts import CallArguments, CallBegun, Part, Thought, Words
from node.requests.request import ELSEWHERE, UNKNOWN_TOKEN, InferenceRequest, Sampling, Token
from node.routing import wire
from shared.events.event import Event
from shared.events.requests import InferenceFinished, InferenceResumed, LoadChanged, TokensGenerated
from tests.node.memory_child import Children
from tests.node.test_scheduler import FOREVER_SECONDS, Asked, open_empty_place

REQUEST = InferenceRequest(
    model_id="m", prompt="p", max_tokens=0, sampling=Sampling(0, 1, 1, 1, 1), stops=("word",)
)
MARKS = "<think>no</think><tool_call>{}</tool_call>"


def attempt(emitted: list[Event]) -> Attempt:
    return Attempt(Answer(REQUEST), Accounts(emitted.append).open(REQUEST))


def delta(part: Part) -> Delta:
    return Delta(part.text if isinstance(part, Words) else "", 1, None, part)


def test_parts_of_an_engine_are_not_read_again() -> None:
    """What a server calls words is words, even if it looks like thoughts and calls."""
    parts: list[Part] = [
        Thought("hm"),
        Words(MARKS),
        CallBegun(0, "f", "c1"),
        CallArguments(0, "{}"),
    ]
    reader = DeltaReader(ChatReader(calls=True))
    read = [part for each in parts for part in reader.feed(delta(each))]
    assert read == parts
    assert reader.finish() == []
    assert collect(read).words == MARKS


def test_forced_call_of_an_engine_is_shown_once() -> None:
    """The reader of forced calls adds no call of its own to those of the server."""
    reader = DeltaReader(NamedCallReader("f"))
    assert reader.feed(delta(CallBegun(0, "f", "c1"))) == [CallBegun(0, "f", "c1")]
    assert reader.finish() == []


@pytest.mark.parametrize("part", [None, Words("x"), CallBegun(2, "f", "c")])
def test_parts_travel_between_nodes(part: Part | None) -> None:
    """A frame carries a token's part, and one without it is read as before."""
    frame = wire.Drawn(UNKNOWN_TOKEN, b"", None, part)
    assert wire.FrameDecoder().feed(wire.pack(frame)) == [frame]


@trio_test
async def test_only_an_engine_elsewhere_continues_unknown_tokens() -> None:
    """An answer without token ids is continued by no engine that needs them, and the reverse."""
    answer = Answer(REQUEST)
    answer.begin("")
    answer.take(Token(UNKNOWN_TOKEN, b"", None, Words("a word")), 0.0)
    with pytest.raises(OtherModelError):
        answer.begin("weights")
    answer.begin(ELSEWHERE)
    local = Answer(REQUEST)
    local.begin("weights")
    local.take(Token(7, b"a"), 0.0)
    with pytest.raises(OtherModelError):
        local.begin(ELSEWHERE)


@trio_test
async def test_counts_of_an_engine_are_added_to_what_was_seen(autojump_clock: MockClock) -> None:
    """Tokens that a server counted but never sent are in usage and counters, without times."""
    del autojump_clock
    emitted: list[Event] = []
    asked = attempt(emitted)
    asked.begin()
    asked.evaluated(0, 0, 0)
    asked.said(Words("a"))
    asked.said(Words("b"))
    asked.counted(12, 4, 3)
    asked.finished("stop", "")
    ended = next(event for event in emitted if isinstance(event, InferenceFinished))
    assert (ended.prompt_tokens, ended.cached_tokens, ended.generated_tokens) == (12, 4, 5)
    assert asked.answer.ending is not None
    assert asked.answer.ending.generated_tokens == 5
    counted = [event for event in emitted if isinstance(event, TokensGenerated)]
    assert sum(event.count for event in counted) == 5
    assert sum(len(event.drawn_at) for event in counted) == 2


@trio_test
async def test_declined_request_waits_as_if_it_had_never_begun(autojump_clock: MockClock) -> None:
    """Its time at the engine that declined it is queue time, and nothing is resumed."""
    del autojump_clock
    emitted: list[Event] = []
    asked = attempt(emitted)
    asked.begin()
    await trio.sleep(3)
    asked.declined()
    assert asked.let_go.is_set()
    assert asked.can_move
    await trio.sleep(4)
    asked.begin()
    asked.said(Words("a"))
    asked.finished("stop", "")
    ended = next(event for event in emitted if isinstance(event, InferenceFinished))
    assert (ended.queue_seconds, ended.resumed) == (7, 0)
    assert not [event for event in emitted if isinstance(event, InferenceResumed)]


@trio_test
async def test_engine_gets_no_more_than_it_takes(
    children: Children, autojump_clock: MockClock
) -> None:
    """An engine of no slots gets nothing; the request begins when it has one again."""
    del autojump_clock
    with trio.fail_after(FOREVER_SECONDS):
        async with open_empty_place(children, Asked()) as place:
            place.engine.want()
            child = await children.next()
            await child.load(slots=2)
            first = place.admit()
            request = await child.hear_generate()
            await child.say(protocol.Resized(0), protocol.Declined(request))
            await wait_all_tasks_blocked()
            assert (place.engine.model.slots, first.over) == (0, False)
            assert list(place.lane.waiting) == [first]
            loads = [event for event in place.emitted if isinstance(event, LoadChanged)]
            assert (loads[-1].queued, loads[-1].slots_total) == (1, 0)
            await child.say(protocol.Resized(1))
            assert await child.hear_generate() == first.identity
            await child.finish(first.identity)
            assert place.statuses == ["ok"]


@trio_test
async def test_request_outlives_an_engine_that_took_nothing(
    children: Children, autojump_clock: MockClock
) -> None:
    """If the engine is lost while it takes no requests, the next one gets those that wait."""
    del autojump_clock
    with trio.fail_after(FOREVER_SECONDS):
        async with open_empty_place(children, Asked()) as place:
            place.engine.want()
            child = await children.next()
            await child.load(slots=2)
            first = place.admit()
            request = await child.hear_generate()
            await child.say(protocol.Resized(0), protocol.Dropped(request, "crashed"))
            child.die()
            other = await children.next()
            await other.load(slots=2)
            assert await other.hear_generate() == first.identity
            await other.finish(first.identity)
            assert place.statuses == ["ok"]


@trio_test
async def test_lost_request_leaves_the_others_alone(
    children: Children, autojump_clock: MockClock
) -> None:
    """An engine that has lost one request goes on with the others and gets the lost one again."""
    del autojump_clock
    with trio.fail_after(FOREVER_SECONDS):
        async with open_empty_place(children, Asked()) as place:
            place.engine.want()
            child = await children.next()
            await child.load(slots=2)
            first, second = place.admit(), place.admit()
            await child.hear_generate()
            await child.hear_generate()
            await child.say(protocol.Dropped(first.identity, "stalled"))
            assert await child.hear_generate() == first.identity
            for each in (first, second):
                await child.say_tokens(each.identity, "a")
                await child.finish(each.identity)
            assert place.statuses == ["ok", "ok"]
            resumed = [e.reason for e in place.emitted if isinstance(e, InferenceResumed)]
            assert resumed == ["stalled"]
