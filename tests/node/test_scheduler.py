"""The scheduler admits, queues, serves one at a time, and loses nobody when something ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock, trio_test, wait_all_tasks_blocked

from node.engine import protocol
from node.engine.protocol import Sampling
from node.engine.supervisor import Engine, EngineOptions
from node.errors import (
    EngineFailedError,
    ModelNotFoundError,
    QueueFullError,
    StartupError,
    UnavailableError,
)
from node.inference.generation import Delta, Ending, Generation, InferenceRequest
from node.inference.scheduler import Lane, Scheduler
from shared import events
from shared.events import Event, InferenceFinished, LoadChanged
from tests.node.memory_child import CONTEXT_LENGTH, DESCRIBED, Children, MemoryChild

STALL_SECONDS = 30.0
FOREVER_SECONDS = 3600.0
"""On the jumping clock: a test that hangs fails at once."""


@dataclass
class Place:
    """A scheduler with one model."""

    scheduler: Scheduler
    lane: Lane
    engine: Engine
    emitted: list[Event]
    children: Children

    def admit(self, *, streamed: bool = False, stops: tuple[str, ...] = ()) -> Generation:
        """Ask for an answer."""
        request = InferenceRequest(
            model_id="m",
            prompt="p",
            control_tokens=False,
            max_tokens=7,
            sampling=Sampling(0, 1, 1, 1, 1),
            stops=stops,
            streamed=streamed,
        )
        return self.scheduler.admit(request)

    @property
    def ends(self) -> list[InferenceFinished]:
        """The accounts of requests that ended."""
        return [event for event in self.emitted if isinstance(event, InferenceFinished)]

    @property
    def statuses(self) -> list[str]:
        """How requests ended."""
        return [end.status for end in self.ends]

    @property
    def load(self) -> tuple[int, int, int]:
        """In flight, queued and busy slots as last emitted."""
        last = [event for event in self.emitted if isinstance(event, LoadChanged)][-1]
        return last.in_flight, last.queued, last.slots_busy


@asynccontextmanager
async def open_place(
    children: Children, queue: int = 4
) -> AsyncIterator[tuple[Place, MemoryChild]]:
    """Run lane and engine for as long as the block does, the model loaded."""
    emitted: list[Event] = []
    options = EngineOptions(
        path="/m.gguf",
        context_length=0,
        threads=1,
        batch_tokens=16,
        load_seconds=600.0,
        stall_seconds=STALL_SECONDS,
    )
    scheduler = Scheduler(emitted.append)
    engine = Engine("m", options, emitted.append)
    lane = scheduler.add(engine, queue)
    with trio.fail_after(FOREVER_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lane.run)
            nursery.start_soon(engine.run)
            child = await children.next()
            await child.load()
            yield Place(scheduler, lane, engine, emitted, children), child
            nursery.cancel_scope.cancel()


async def read_all(asked: Generation) -> tuple[str, Ending]:
    text = ""
    while isinstance(received := await asked.receive(), Delta):
        text += received.text
    return text, received


@trio_test
async def test_request_is_served_to_its_end(autojump_clock: MockClock, children: Children) -> None:
    """What was asked for reaches the child, what the child says reaches the caller."""
    del autojump_clock
    async with open_place(children) as (place, child):
        asked = place.admit()
        command = await child.hear()
        assert command == protocol.Generate(asked.identity, "p", False, 7, asked.request.sampling)
        await child.say_tokens(asked.identity, "one", " two")
        await child.finish(asked.identity, "length")
        assert await read_all(asked) == ("one two", Ending("length", 3, 1, 2))
        assert place.statuses == ["ok"]
        assert place.load == (0, 0, 0)


@trio_test
async def test_full_queue_answers_429(autojump_clock: MockClock, children: Children) -> None:
    """One more than may wait is refused and counted; those that wait are served."""
    del autojump_clock
    async with open_place(children, queue=2) as (place, child):
        first = place.admit()
        assert await child.hear_generate() == first.identity
        waiting = [place.admit(), place.admit()]
        with pytest.raises(QueueFullError) as refused:
            place.admit()
        assert refused.value.status == 429
        assert (place.statuses, place.ends[0].finish_reason) == (["rejected"], None)
        assert place.load == (3, 2, 1)
        await child.finish(first.identity)
        for asked in waiting:
            assert await child.hear_generate() == asked.identity
            await child.finish(asked.identity)
        assert place.statuses == ["rejected", "ok", "ok", "ok"]


@trio_test
async def test_unknown_model_is_refused_and_not_counted(
    autojump_clock: MockClock, children: Children
) -> None:
    """A name from outside becomes no label; the message says what is served."""
    del autojump_clock
    async with open_place(children) as (place, _):
        request = InferenceRequest(
            model_id="other",
            prompt="p",
            control_tokens=False,
            max_tokens=0,
            sampling=Sampling(0, 1, 1, 1, 1),
        )
        with pytest.raises(ModelNotFoundError, match="served: m"):
            place.scheduler.admit(request)
        assert place.ends == []


@trio_test
async def test_requests_are_served_in_their_order(
    autojump_clock: MockClock, children: Children
) -> None:
    """The child has one request at a time, the one that has waited longest."""
    del autojump_clock
    async with open_place(children) as (place, child):
        asked = [place.admit() for _ in range(3)]
        for each in asked:
            assert await child.hear_generate() == each.identity
            await child.finish(each.identity)
        assert [end.status for end in place.ends] == ["ok"] * 3


@trio_test
async def test_cancel_while_queued_never_reaches_the_engine(
    autojump_clock: MockClock, children: Children
) -> None:
    """Who leaves the queue is counted once, costs no work and leaves a place free."""
    del autojump_clock
    async with open_place(children, queue=1) as (place, child):
        first = place.admit()
        assert await child.hear_generate() == first.identity
        gone = place.admit()
        gone.close()
        assert place.statuses == ["cancelled"]
        third = place.admit()
        assert place.load == (2, 1, 1)
        await child.finish(first.identity)
        assert await child.hear_generate() == third.identity
        await child.finish(third.identity)
        assert place.statuses == ["cancelled", "ok", "ok"]


@trio_test
async def test_who_left_the_queue_is_not_counted_as_waiting(
    autojump_clock: MockClock, children: Children
) -> None:
    """The load tells of those who still wait, while the engine is busy with another."""
    del autojump_clock
    async with open_place(children) as (place, child):
        first = place.admit()
        assert await child.hear_generate() == first.identity
        place.admit().close()
        assert place.lane.load() == LoadChanged("m", 1, 0, 1, 1)
        assert place.load == (1, 0, 1)


@trio_test
async def test_cancel_while_served_stops_the_engine(
    autojump_clock: MockClock, children: Children
) -> None:
    """When the caller leaves the child is told, and the next is served once it has stopped."""
    del autojump_clock
    async with open_place(children) as (place, child):
        asked, following = place.admit(), place.admit()
        await child.hear_generate()
        await child.say_tokens(asked.identity, "a", "b")
        asked.close()
        assert await child.hear_cancel() == asked.identity
        await wait_all_tasks_blocked()
        assert place.load == (2, 1, 1)
        assert place.ends == []
        await child.finish(asked.identity, "cancelled")
        assert (place.statuses, place.ends[0].discarded_tokens) == (["cancelled"], 2)
        assert await child.hear_generate() == following.identity


@trio_test
async def test_cancel_during_prefill_stops_the_engine(
    autojump_clock: MockClock, children: Children
) -> None:
    """A caller can leave before the first token too."""
    del autojump_clock
    async with open_place(children) as (place, child):
        asked = place.admit()
        await child.hear_generate()
        asked.close()
        assert await child.hear_cancel() == asked.identity
        await child.finish(asked.identity, "cancelled")
        assert (place.statuses, place.ends[0].first_token_seconds) == (["cancelled"], None)
        assert place.lane.idle


@trio_test
async def test_stop_sequence_stops_the_engine(
    autojump_clock: MockClock, children: Children
) -> None:
    """The child learns of a stop by a cancel; the answer is whole."""
    del autojump_clock
    async with open_place(children) as (place, child):
        asked = place.admit(stops=("END",))
        await child.hear_generate()
        await child.say_tokens(asked.identity, "one E", "ND")
        assert await child.hear_cancel() == asked.identity
        await child.say_tokens(asked.identity, " two")
        await child.finish(asked.identity, "cancelled")
        assert await read_all(asked) == ("one ", Ending("stop", 3, 1, 3))
        assert place.statuses == ["ok"]


@trio_test
async def test_crash_ends_only_its_request(autojump_clock: MockClock, children: Children) -> None:
    """The request that the engine had fails, a new child is started and serves the next."""
    del autojump_clock
    async with open_place(children) as (place, child):
        asked, following = place.admit(), place.admit()
        await child.hear_generate()
        await child.say_tokens(asked.identity, "a")
        child.die()
        assert await asked.receive() == Delta("a", 1)
        with pytest.raises(EngineFailedError, match="crashed"):
            await asked.receive()
        assert not place.lane.has_free_slot
        assert events.ModelUnloaded("m", "crashed") in place.emitted
        assert events.EngineRestarted("m", "crashed") in place.emitted
        again = await children.next()
        await again.load()
        assert await again.hear_generate() == following.identity
        await again.finish(following.identity)
        assert place.statuses == ["error", "ok"]
        assert place.lane.has_free_slot


@trio_test
async def test_stalled_engine_is_replaced(autojump_clock: MockClock, children: Children) -> None:
    """With work and no progress for too long the child is killed and its request told so."""
    async with open_place(children) as (place, child):
        asked = place.admit()
        await child.hear_generate()
        await child.say_tokens(asked.identity, "a")
        assert await asked.receive() == Delta("a", 1)
        began = autojump_clock.current_time()
        with pytest.raises(EngineFailedError, match="stalled"):
            await asked.receive()
        assert STALL_SECONDS < autojump_clock.current_time() - began < STALL_SECONDS + 2
        assert events.EngineRestarted("m", "stalled") in place.emitted
        await (await children.next()).load()
        assert place.engine.ready


@trio_test
async def test_idle_engine_is_not_stalled(autojump_clock: MockClock, children: Children) -> None:
    """Without work there is no progress to miss."""
    del autojump_clock
    async with open_place(children) as (place, _):
        await trio.sleep(10 * STALL_SECONDS)
        assert place.engine.ready


@trio_test
async def test_engine_that_does_not_come_back_fails_who_waits(
    autojump_clock: MockClock, children: Children
) -> None:
    """A model that cannot be loaded again is said to be unavailable, until it can."""
    del autojump_clock
    async with open_place(children) as (place, child):
        child.die()
        broken = await children.next()
        waiting, second = place.admit(), place.admit()
        await broken.hear()
        await broken.say(protocol.LoadFailed("the file has gone"))
        for asked in (waiting, second):
            with pytest.raises(UnavailableError, match="the file has gone"):
                await asked.receive()
        assert place.statuses == ["error", "error"]
        mended = await children.next()
        await mended.load()
        asked = place.admit()
        await mended.hear_generate()
        await mended.finish(asked.identity)
        assert isinstance(await asked.receive(), Ending)


@trio_test
async def test_who_left_while_the_engine_was_away_is_not_served(
    autojump_clock: MockClock, children: Children
) -> None:
    """A request that nobody waits for any more costs the new child no work."""
    del autojump_clock
    async with open_place(children) as (place, child):
        child.die()
        await wait_all_tasks_blocked()
        gone, waiting = place.admit(), place.admit()
        again = await children.next()
        gone.close()
        await again.load()
        assert await again.hear_generate() == waiting.identity
        await again.finish(waiting.identity)
        assert place.statuses == ["cancelled", "ok"]


@trio_test
async def test_model_that_cannot_be_loaded_at_first_stops_the_start(
    autojump_clock: MockClock, children: Children
) -> None:
    """The node does not start with a model that it cannot serve."""
    del autojump_clock
    emitted: list[Event] = []
    options = EngineOptions(
        path="/m.gguf",
        context_length=0,
        threads=1,
        batch_tokens=16,
        load_seconds=600.0,
        stall_seconds=1.0,
    )
    with trio.fail_after(FOREVER_SECONDS), pytest.RaisesGroup(StartupError) as raised:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Engine("m", options, emitted.append).run)
            child = await children.next()
            await child.hear()
            await child.say(protocol.LoadFailed("no GGUF file"))
    assert str(raised.value.exceptions[0]) == "no GGUF file"
    assert emitted == [events.ModelLoadFailed("m", 0.0)]


@trio_test
async def test_prompt_that_is_too_long_ends_only_its_request(
    autojump_clock: MockClock, children: Children
) -> None:
    """The engine refuses it and is free for the next."""
    del autojump_clock
    async with open_place(children) as (place, child):
        asked, following = place.admit(), place.admit()
        await child.hear_generate()
        await child.say(protocol.Finished(asked.identity, "too_long", "90 tokens"))
        assert await child.hear_generate() == following.identity
        assert place.statuses == ["rejected"]


@trio_test
async def test_loaded_model_is_described(autojump_clock: MockClock, children: Children) -> None:
    """What the header says becomes a level while the model is loaded, and only then."""
    del autojump_clock
    async with open_place(children) as (place, child):
        level = events.ModelDescribed("m", "llama", "Q8_0", "ctransformers", 2**20, 8)
        assert place.engine.describe() == level
        assert place.emitted[:2] == [events.ModelLoaded("m", 0.0), level]
        assert place.engine.described == DESCRIBED
        assert (place.engine.context_length, place.engine.pid) == (CONTEXT_LENGTH, 1)
        child.die()
        await wait_all_tasks_blocked()
        assert place.engine.pid is None
        again = await children.next()
        levels = [place.engine.describe()]
        await again.load()
        assert [*levels, place.engine.describe()] == [None, level]


@trio_test
async def test_drain_of_an_idle_node_ends_at_once(
    autojump_clock: MockClock, children: Children
) -> None:
    """With nothing in work nothing is waited for."""
    async with open_place(children) as (place, _):
        before = autojump_clock.current_time()
        await place.scheduler.drain(60)
        assert autojump_clock.current_time() == before


@trio_test
async def test_drain_takes_no_new_request(autojump_clock: MockClock, children: Children) -> None:
    """A node that stops refuses with a 503 that counts as a rejection."""
    del autojump_clock
    async with open_place(children) as (place, _):
        changes: list[bool] = []
        place.scheduler.on_change = lambda: changes.append(place.scheduler.draining)
        await place.scheduler.drain(60)
        assert changes == [True]
        with pytest.raises(UnavailableError) as refused:
            place.admit()
        assert refused.value.status == 503
        assert place.statuses == ["rejected"]


@trio_test
async def test_drain_waits_for_running_and_queued(
    autojump_clock: MockClock, children: Children
) -> None:
    """Whoever was taken in is served, and the drain ends with the last of them."""
    async with open_place(children) as (place, child), trio.open_nursery() as nursery:
        asked = [place.admit(), place.admit()]
        began = autojump_clock.current_time()
        nursery.start_soon(place.scheduler.drain, 60)
        for each in asked:
            assert await child.hear_generate() == each.identity
            await trio.sleep(5)
            assert nursery.child_tasks
            await child.finish(each.identity)
        assert not nursery.child_tasks
        assert autojump_clock.current_time() - began == 10
        assert place.statuses == ["ok", "ok"]


@trio_test
async def test_drain_ends_with_its_grace(autojump_clock: MockClock, children: Children) -> None:
    """Past the grace whoever is left is told that the node stopped, and is counted once."""
    async with open_place(children) as (place, child):
        served, queued = place.admit(), place.admit()
        await child.hear_generate()
        await child.say_tokens(served.identity, "a")
        began = autojump_clock.current_time()
        await place.scheduler.drain(8)
        assert autojump_clock.current_time() - began == 8
        place.scheduler.end()
        assert await served.receive() == Delta("a", 1)
        for each in (served, queued):
            with pytest.raises(UnavailableError) as raised:
                await each.receive()
            assert raised.value.code == "stopped"
        assert await child.hear_cancel() == served.identity
        await child.finish(served.identity, "cancelled")
        assert place.statuses == ["error", "error"]
        assert place.lane.idle


@trio_test
async def test_only_a_free_slot_is_free(autojump_clock: MockClock, children: Children) -> None:
    """A node is busy from the moment that its engine has a request until it is free again."""
    del autojump_clock
    async with open_place(children) as (place, child):
        changes: list[bool] = []
        place.scheduler.on_change = lambda: changes.append(place.lane.has_free_slot)
        asked = place.admit()
        await child.hear_generate()
        await child.finish(asked.identity)
        assert changes == [True, False, True]


ENDS = ["ok", "left", "left in the queue", "crash", "stall", "too long", "stop", "node stopped"]


@pytest.mark.parametrize("end", ENDS)
@trio_test
async def test_every_end_is_counted_once(
    autojump_clock: MockClock, children: Children, end: str
) -> None:
    """One admitted request is one account, whose phases add up, and the lane is idle after it."""
    del autojump_clock
    async with open_place(children) as (place, child):
        asked = place.admit(stops=("END",))
        if end == "left in the queue":
            asked.close()
        else:
            await child.hear_generate()
            await trio.sleep(0.5)
            await come_to_an_end(place, child, asked, end)
        await wait_all_tasks_blocked()
        asked.close()
        (account,) = place.ends
        phases = account.queue_seconds + account.prefill_seconds + account.decode_seconds
        assert phases == account.seconds
        assert asked.over
        assert place.lane.idle
        assert place.load == (0, 0, 0)


async def come_to_an_end(place: Place, child: MemoryChild, asked: Generation, end: str) -> None:
    if end == "too long":
        await child.finish(asked.identity, "too_long")
        return
    await child.say_tokens(asked.identity, "a", "END" if end == "stop" else "b")
    match end:
        case "ok":
            await child.finish(asked.identity)
        case "left" | "stop" | "node stopped":
            if end == "left":
                asked.close()
            elif end == "node stopped":
                place.scheduler.end()
            assert await child.hear_cancel() == asked.identity
            await trio.sleep(0.25)
            await child.finish(asked.identity, "cancelled")
        case "crash":
            child.die()
        case "stall":
            await asked.changed.wait()
