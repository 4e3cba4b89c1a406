"""The scheduler admits, queues and serves requests, and every request comes to an end."""

import contextlib
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import pytest
import trio
from trio.testing import MockClock, trio_test, wait_all_tasks_blocked

from node.engine import protocol
from node.engine.options import Watcher
from node.engine.supervisor import Engine
from node.errors import (
    DeadlineExceededError,
    EngineFailedError,
    InsufficientMemoryError,
    InvalidRequestError,
    ModelNotFoundError,
    OtherModelError,
    QueueFullError,
    RequestError,
    UnavailableError,
)
from node.requests.answer import Delta, Ending
from node.requests.attempt import Attempt
from node.requests.request import InferenceRequest, Sampling
from node.serving.lane import Lane, LaneOptions
from node.serving.scheduler import Limits, Scheduler
from shared.events.engine import EngineRestarted
from shared.events.event import Event
from shared.events.models import (
    ModelDescribed,
    ModelLoaded,
    ModelLoadFailed,
    ModelLoadProgressed,
    ModelUnloaded,
)
from shared.events.node import NodePart
from shared.events.requests import InferenceFinished, LoadChanged
from shared.runtime.guard import Guard
from tests.builders import resumptions
from tests.node.memory_child import (
    CONTEXT_LENGTH,
    DESCRIBED,
    STALL_SECONDS,
    Children,
    MemoryChild,
)

NO_LIMITS = Limits()
FOREVER_SECONDS = 3600.0
"""On the jumping clock a test that hangs fails at once."""


@dataclass
class Place:
    """A scheduler with one model."""

    scheduler: Scheduler
    lane: Lane
    engine: Engine
    emitted: list[Event]
    turns: trio.CapacityLimiter
    failed: list[str]
    """The parts that failed unexpectedly."""
    children: Children

    def admit(
        self,
        *,
        streamed: bool = False,
        stops: tuple[str, ...] = (),
        client: str = "",
        max_tokens: int = 7,
    ) -> Attempt:
        """Ask for an answer."""
        request = InferenceRequest(
            model_id="m",
            prompt="p",
            max_tokens=max_tokens,
            sampling=Sampling(0, 1, 1, 1, 1),
            stops=stops,
            streamed=streamed,
            client=client,
        )
        return self.scheduler.admit(request)

    @property
    def ends(self) -> list[InferenceFinished]:
        """Return the accounts of ended requests."""
        return [event for event in self.emitted if isinstance(event, InferenceFinished)]

    @property
    def statuses(self) -> list[str]:
        """Return the statuses of ended requests."""
        return [end.status for end in self.ends]

    @property
    def load(self) -> tuple[int, int, int]:
        """Return requests in flight, queue and busy slots as last emitted."""
        last = [event for event in self.emitted if isinstance(event, LoadChanged)][-1]
        return last.in_flight, last.queued, last.slots_busy


@dataclass(frozen=True)
class Asked:
    """The options of a place."""

    queue: int = 4
    idle_seconds: float = math.inf
    resident: bool = True
    limits: Limits = NO_LIMITS
    shortage: str = ""
    """Why there is no memory, if there is none."""


@asynccontextmanager
async def open_empty_place(children: Children, asked: Asked) -> AsyncIterator[Place]:
    """Run lane and engine until the block ends, with the model not loaded."""
    emitted: list[Event] = []
    scheduler = Scheduler(emitted.append, asked.limits)
    watcher = Watcher(emitted.append, lambda _: asked.shortage, scheduler.note_change)
    engine = Engine("m", children.options, watcher)
    engine.resident = asked.resident
    options = LaneOptions(queue_limit=asked.queue, idle_seconds=asked.idle_seconds)
    turns = trio.CapacityLimiter(1)
    lane = Lane(engine, options, turns, emitted.append, scheduler.note_change)
    scheduler.add(lane)
    failed: list[str] = []
    guard = Guard[NodePart](failed.append)
    with trio.fail_after(FOREVER_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lane.run, guard)
            nursery.start_soon(engine.run)
            yield Place(scheduler, lane, engine, emitted, turns, failed, children)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_place(
    children: Children, queue: int = 4, idle_seconds: float = math.inf, slots: int = 1
) -> AsyncIterator[tuple[Place, MemoryChild]]:
    """Run lane and engine until the block ends, with the model loaded."""
    asked = Asked(queue=queue, idle_seconds=idle_seconds)
    async with open_empty_place(children, asked) as place, trio.open_nursery() as nursery:
        nursery.start_soon(place.scheduler.load, "m")
        child = await children.next()
        await child.load(slots)
        yield place, child


async def read_all(asked: Attempt) -> tuple[str, Ending]:
    text = ""
    while isinstance(received := await asked.answer.receive(), Delta):
        text += received.text
    return text, received


@trio_test
async def test_request_is_served_to_its_end(autojump_clock: MockClock, children: Children) -> None:
    """The child gets the request, and the caller gets the child's results."""
    del autojump_clock
    async with open_place(children) as (place, child):
        asked = place.admit()
        command = await child.hear()
        assert command == protocol.Generate(asked.identity, "p", 7, asked.answer.request.sampling)
        await child.say_tokens(asked.identity, "one", " two")
        await child.finish(asked.identity, "length")
        assert await read_all(asked) == ("one two", Ending("length", 3, 1, 2))
        assert place.statuses == ["ok"]
        assert place.load == (0, 0, 0)


@trio_test
async def test_full_queue_answers_429(autojump_clock: MockClock, children: Children) -> None:
    """A full queue answers 429 and counts it; the waiting requests are served."""
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
    """An unknown model is refused with the served ones, and does not become a label."""
    del autojump_clock
    async with open_place(children) as (place, _):
        request = InferenceRequest(
            model_id="other",
            prompt="p",
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
    """The child has one request at a time: the one that has waited longest."""
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
    """A request cancelled in the queue counts once and never reaches the engine."""
    del autojump_clock
    async with open_place(children, queue=1) as (place, child):
        first = place.admit()
        assert await child.hear_generate() == first.identity
        gone = place.admit()
        gone.answer.close()
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
    """A cancelled request no longer counts as waiting, even while the engine is busy."""
    del autojump_clock
    async with open_place(children) as (place, child):
        first = place.admit()
        assert await child.hear_generate() == first.identity
        place.admit().answer.close()
        assert place.lane.load() == LoadChanged("m", 1, 0, 1, 1)
        assert place.load == (1, 0, 1)


@trio_test
async def test_cancel_while_served_stops_the_engine(
    autojump_clock: MockClock, children: Children
) -> None:
    """A cancel stops the engine, which then serves the next request."""
    del autojump_clock
    async with open_place(children) as (place, child):
        asked, following = place.admit(), place.admit()
        await child.hear_generate()
        await child.say_tokens(asked.identity, "a", "b")
        asked.answer.close()
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
    """A cancel stops the engine before the first token as well."""
    del autojump_clock
    async with open_place(children) as (place, child):
        asked = place.admit()
        await child.hear_generate()
        asked.answer.close()
        assert await child.hear_cancel() == asked.identity
        await child.finish(asked.identity, "cancelled")
        assert (place.statuses, place.ends[0].first_token_seconds) == (["cancelled"], None)
        assert place.lane.idle


@trio_test
async def test_stop_sequence_stops_the_engine(
    autojump_clock: MockClock, children: Children
) -> None:
    """A stop sequence cancels the request in the engine, and the answer is whole."""
    del autojump_clock
    async with open_place(children) as (place, child):
        asked = place.admit(stops=("END",))
        await child.hear_generate()
        await child.say_tokens(asked.identity, "one E", "ND")
        assert await child.hear_cancel() == asked.identity
        await child.say_tokens(asked.identity, " two")
        await child.finish(asked.identity, "cancelled")
        assert await read_all(asked) == ("one ", Ending("stop", 3, 1, 2))
        assert place.statuses == ["ok"]


@trio_test
async def test_crash_is_not_seen_by_the_caller(
    autojump_clock: MockClock, children: Children
) -> None:
    """After a crash the new child continues with the tokens so far, and the queue waits."""
    del autojump_clock
    async with open_place(children) as (place, child):
        asked, following = place.admit(), place.admit()
        await child.hear_generate()
        await child.say_tokens(asked.identity, "a", "bc")
        child.die()
        await wait_all_tasks_blocked()
        assert not place.lane.has_free_slot
        assert ModelUnloaded("m", "crashed") in place.emitted
        assert EngineRestarted("m", "crashed") in place.emitted
        again = await children.next()
        await again.load()
        command = await again.hear()
        assert isinstance(command, protocol.Generate)
        assert (command.request, command.prior) == (asked.identity, (1, 2))
        await again.say_tokens(asked.identity, "d")
        await again.finish(asked.identity)
        assert await read_all(asked) == ("abcd", Ending("stop", 3, 1, 3))
        assert await again.hear_generate() == following.identity
        await again.finish(following.identity)
        assert place.statuses == ["ok", "ok"]
        assert resumptions(place.emitted) == ["crashed"]
        assert place.lane.has_free_slot


@trio_test
async def test_answer_is_not_gone_on_with_by_another_model(
    autojump_clock: MockClock, children: Children
) -> None:
    """If the file was replaced before a crash, a partial answer fails with that reason."""
    del autojump_clock
    async with open_place(children) as (place, child):
        asked, following = place.admit(), place.admit()
        await child.hear_generate()
        await child.say_tokens(asked.identity, "a")
        child.die()
        children.described = msgspec.structs.replace(DESCRIBED, fingerprint="f2")
        again = await children.next()
        await again.load()
        assert await asked.answer.receive() == Delta("a", 1)
        with pytest.raises(OtherModelError):
            await asked.answer.receive()
        assert await again.hear_generate() == following.identity
        await again.finish(following.identity)
        assert place.statuses == ["error", "ok"]


@trio_test
async def test_request_that_ends_each_engine_fails_alone(
    autojump_clock: MockClock, children: Children
) -> None:
    """A request that ends three children fails, and the next one is served."""
    del autojump_clock
    async with open_place(children) as (place, first):
        asked, following = place.admit(), place.admit()
        child = first
        for _ in range(3):
            await child.hear_generate()
            child.die()
            child = await children.next()
            await child.load()
        with pytest.raises(EngineFailedError, match="3 engines ended"):
            await asked.answer.receive()
        assert await child.hear_generate() == following.identity
        await child.finish(following.identity)
        assert place.statuses == ["error", "ok"]


@trio_test
async def test_stalled_engine_is_replaced(autojump_clock: MockClock, children: Children) -> None:
    """A child without progress for too long is killed, and a new one continues."""
    async with open_place(children) as (place, child):
        asked = place.admit()
        await child.hear_generate()
        await child.say_tokens(asked.identity, "a")
        began = autojump_clock.current_time()
        again = await children.next()
        assert STALL_SECONDS < autojump_clock.current_time() - began < STALL_SECONDS + 2
        assert EngineRestarted("m", "stalled") in place.emitted
        await again.load()
        await again.hear_generate()
        await again.finish(asked.identity)
        assert (await read_all(asked))[0] == "a"
        assert resumptions(place.emitted) == ["stalled"]


@trio_test
async def test_idle_engine_is_not_stalled(autojump_clock: MockClock, children: Children) -> None:
    """An idle engine is not stalled."""
    del autojump_clock
    async with open_place(children) as (place, _):
        await trio.sleep(10 * STALL_SECONDS)
        assert place.engine.ready


@trio_test
async def test_engine_that_does_not_come_back_fails_who_waits(
    autojump_clock: MockClock, children: Children
) -> None:
    """If a model cannot be loaded again, waiting requests get 503, until it can."""
    del autojump_clock
    async with open_place(children) as (place, child):
        child.die()
        broken = await children.next()
        waiting, second = place.admit(), place.admit()
        await broken.hear()
        await broken.say(protocol.LoadFailed("the file has gone"))
        for asked in (waiting, second):
            with pytest.raises(UnavailableError, match="the file has gone"):
                await asked.answer.receive()
        assert place.statuses == ["error", "error"]
        mended = await children.next()
        await mended.load()
        asked = place.admit()
        await mended.hear_generate()
        await mended.finish(asked.identity)
        assert isinstance(await asked.answer.receive(), Ending)


@trio_test
async def test_engine_that_dies_while_it_reloads_fails_nobody(
    autojump_clock: MockClock, children: Children
) -> None:
    """A request that waits for a reload is not failed by an engine that dies in it."""
    del autojump_clock
    async with open_place(children) as (place, child):
        served, waiting = place.admit(), place.admit()
        await child.hear_generate()
        await child.say_tokens(served.identity, "a")
        child.die()
        for _ in range(5):
            broken = await children.next()
            await broken.hear()
            broken.die(-9)
        again = await children.next()
        await again.load()
        for asked in (served, waiting):
            assert await again.hear_generate() == asked.identity
            await again.finish(asked.identity)
        assert (await read_all(served))[0] == "a"
        assert place.statuses == ["ok", "ok"]


@trio_test
async def test_reader_that_dies_while_its_model_reloads_fails_nobody(
    autojump_clock: MockClock, children: Children
) -> None:
    """A request waits while the process that reads the model's file cannot be run."""
    del autojump_clock
    async with open_place(children) as (place, child):
        asked = place.admit()
        await child.hear_generate()
        children.unreadable = 3
        child.die()
        again = await children.next()
        await again.load()
        assert await again.hear_generate() == asked.identity
        await again.finish(asked.identity)
        assert place.statuses == ["ok"]


@trio_test
async def test_engine_that_dies_in_every_load_is_given_up(
    autojump_clock: MockClock, children: Children
) -> None:
    """After too many failed loads in a row, waiting requests fail with the reason."""
    began = autojump_clock.current_time()
    async with open_place(children) as (place, child):
        waiting = place.admit()
        await child.hear_generate()
        child.die()
        loads = 0
        while not waiting.over:
            broken = await children.next()
            await broken.hear()
            broken.die(-9)
            await wait_all_tasks_blocked()
            loads += 1
        with pytest.raises(UnavailableError, match="signal 9"):
            await waiting.answer.receive()
        assert loads == 10
        assert autojump_clock.current_time() - began < 120
        with pytest.raises(UnavailableError, match="signal 9"):
            await place.admit().answer.receive()


@trio_test
async def test_request_waits_for_a_reload_no_longer_than_its_time(
    autojump_clock: MockClock, children: Children
) -> None:
    """A request that waits for a reload still has its deadline."""
    del autojump_clock
    async with open_empty_place(children, Asked(limits=Limits(seconds=3))) as place:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(place.scheduler.load, "m")
            child = await children.next()
            await child.load()
        child.die()
        asked = place.admit()
        await (await children.next()).hear()
        with pytest.raises(DeadlineExceededError):
            await asked.answer.receive()
        assert place.statuses == ["timeout"]


@trio_test
async def test_failed_load_keeps_nothing_of_its_callers(
    autojump_clock: MockClock, children: Children
) -> None:
    """Each request gets its own error for a failed load, and nothing keeps them alive."""
    del autojump_clock
    async with open_empty_place(children, Asked(queue=9)) as place:
        waiting = [place.admit() for _ in range(9)]
        child = await children.next()
        await child.hear()
        await child.say(protocol.LoadFailed("it is damaged"))
        errors = [asked.answer.error for asked in waiting]
        assert len(set(map(id, errors))) == len(errors)
        for asked in waiting:
            with pytest.raises(UnavailableError, match="damaged"):
                await asked.answer.receive()
        later = place.admit()
        with pytest.raises(UnavailableError, match="damaged"):
            await later.answer.receive()
        failure = place.engine._failures.final
        assert failure is not None
        assert failure.__traceback__ is None


@trio_test
async def test_longer_context_after_a_reload_is_no_fault(
    autojump_clock: MockClock, children: Children
) -> None:
    """A model reloaded with a longer context continues the answer."""
    del autojump_clock
    async with open_place(children) as (place, child):
        asked = place.admit(max_tokens=0)
        await child.hear_generate()
        child.die()
        longer = 8 * CONTEXT_LENGTH
        children.described = msgspec.structs.replace(DESCRIBED, context_length=longer)
        again = await children.next()
        await again.load()
        await again.hear_generate()
        await again.say_tokens(asked.identity, *"x" * (8 * CONTEXT_LENGTH))
        await again.finish(asked.identity, "length")
        assert (await read_all(asked))[0] == "x" * (8 * CONTEXT_LENGTH)
        assert place.statuses == ["ok"]


@trio_test
async def test_who_left_while_the_engine_was_away_is_not_served(
    autojump_clock: MockClock, children: Children
) -> None:
    """A request whose caller left during a reload is not served."""
    del autojump_clock
    async with open_place(children) as (place, child):
        child.die()
        await wait_all_tasks_blocked()
        gone, waiting = place.admit(), place.admit()
        again = await children.next()
        gone.answer.close()
        await again.load()
        assert await again.hear_generate() == waiting.identity
        await again.finish(waiting.identity)
        assert place.statuses == ["cancelled", "ok"]


@trio_test
async def test_model_that_cannot_be_loaded_at_first_stops_the_start(
    autojump_clock: MockClock, children: Children
) -> None:
    """A node does not start with a model that cannot be loaded."""
    del autojump_clock
    async with (
        open_empty_place(children, Asked(resident=False)) as place,
        trio.open_nursery() as nursery,
    ):

        async def load() -> None:
            with pytest.raises(UnavailableError, match="no GGUF file"):
                await place.scheduler.load("m")

        nursery.start_soon(load)
        child = await children.next()
        await child.hear()
        await child.say(protocol.LoadFailed("no GGUF file"))
        assert place.emitted == [ModelLoadFailed("m", 0.0)]
        assert place.engine.state == "unloaded"


@trio_test
@pytest.mark.parametrize("deaths", [1, 3, 4])
async def test_engine_that_is_killed_in_its_first_load_is_tried_again_a_few_times(
    autojump_clock: MockClock, children: Children, deaths: int
) -> None:
    """A process that is killed during the first load does not stop the start; four times do."""
    del autojump_clock
    async with (
        open_empty_place(children, Asked(resident=False)) as place,
        trio.open_nursery() as nursery,
    ):
        ended = pytest.raises(UnavailableError, match="while it loaded")
        expectation = ended if deaths == 4 else contextlib.nullcontext()

        async def load() -> None:
            with expectation:
                await place.scheduler.load("m")
            assert place.engine.state == ("unloaded" if deaths == 4 else "ready")

        nursery.start_soon(load)
        for _ in range(deaths):
            child = await children.next()
            await child.hear()
            child.die()
        if deaths < 4:
            await (await children.next()).load()


@trio_test
async def test_prompt_that_is_too_long_ends_only_its_request(
    autojump_clock: MockClock, children: Children
) -> None:
    """A prompt that is too long ends only its own request."""
    del autojump_clock
    async with open_place(children) as (place, child):
        asked, following = place.admit(), place.admit()
        await child.hear_generate()
        await child.say(protocol.Finished(asked.identity, "too_long", "90 tokens"))
        assert await child.hear_generate() == following.identity
        assert place.statuses == ["rejected"]


@trio_test
async def test_loaded_model_is_described(autojump_clock: MockClock, children: Children) -> None:
    """The metrics describe a model only while it is loaded."""
    del autojump_clock
    async with open_place(children) as (place, child):
        level = ModelDescribed("m", "llama", "Q8_0", "ctransformers", 2**20, 8)
        assert place.engine.model.describe() == level
        progress = ModelLoadProgressed("m", "read", 2**19, 2**20)
        assert place.emitted[:3] == [progress, ModelLoaded("m", 0.0), level]
        assert place.engine.model.described == DESCRIBED
        assert (place.engine.model.context_length, place.engine.model.pid) == (CONTEXT_LENGTH, 1)
        child.die()
        await wait_all_tasks_blocked()
        assert place.engine.model.pid is None
        again = await children.next()
        levels = [place.engine.model.describe()]
        await again.load()
        assert [*levels, place.engine.model.describe()] == [None, level]


@trio_test
async def test_drain_of_an_idle_node_ends_at_once(
    autojump_clock: MockClock, children: Children
) -> None:
    """The drain of an idle node ends at once."""
    async with open_place(children) as (place, _):
        before = autojump_clock.current_time()
        await place.scheduler.drain(60)
        assert autojump_clock.current_time() == before


@trio_test
async def test_drain_takes_no_new_request(autojump_clock: MockClock, children: Children) -> None:
    """During a drain new requests get 503 and count as rejected."""
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
    """A drain waits for running and queued requests."""
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
    """At the end of the grace the remaining requests fail as stopped, each counted once."""
    async with open_place(children) as (place, child):
        served, queued = place.admit(), place.admit()
        await child.hear_generate()
        await child.say_tokens(served.identity, "a")
        began = autojump_clock.current_time()
        await place.scheduler.drain(8)
        assert autojump_clock.current_time() - began == 8
        place.scheduler.end()
        assert await served.answer.receive() == Delta("a", 1)
        for each in (served, queued):
            with pytest.raises(UnavailableError) as raised:
                await each.answer.receive()
            assert raised.value.code == "stopped"
        assert await child.hear_cancel() == served.identity
        await child.finish(served.identity, "cancelled")
        assert place.statuses == ["error", "error"]
        assert place.lane.idle


@trio_test
async def test_only_a_free_slot_is_free(autojump_clock: MockClock, children: Children) -> None:
    """A node is busy from the start of a request in the engine until the slot is free."""
    del autojump_clock
    async with open_place(children) as (place, child):
        changes: list[bool] = []
        place.scheduler.on_change = lambda: changes.append(place.lane.has_free_slot)
        asked = place.admit()
        await child.hear_generate()
        await child.finish(asked.identity)
        assert changes == [False, False, True]


ENDS = ["ok", "left", "left in the queue", "crash", "stall", "too long", "stop", "node stopped"]


@pytest.mark.parametrize("end", ENDS)
@trio_test
async def test_every_end_is_counted_once(
    autojump_clock: MockClock, children: Children, end: str
) -> None:
    """Each admitted request has one account whose phases add up, and the lane ends idle."""
    del autojump_clock
    async with open_place(children) as (place, child):
        asked = place.admit(stops=("END",))
        if end == "left in the queue":
            asked.answer.close()
        else:
            await child.hear_generate()
            await trio.sleep(0.5)
            await come_to_an_end(place, child, asked, end)
        await wait_all_tasks_blocked()
        asked.answer.close()
        (account,) = place.ends
        phases = account.queue_seconds + account.prefill_seconds + account.decode_seconds
        assert phases == account.seconds
        assert asked.over
        assert place.lane.idle
        assert place.load == (0, 0, 0)


async def come_to_an_end(place: Place, child: MemoryChild, asked: Attempt, end: str) -> None:
    if end == "too long":
        await child.finish(asked.identity, "too_long")
        return
    await child.say_tokens(asked.identity, "a", "END" if end == "stop" else "b")
    match end:
        case "ok":
            await child.finish(asked.identity)
        case "left" | "stop" | "node stopped":
            if end == "left":
                asked.answer.close()
            elif end == "node stopped":
                place.scheduler.end()
            assert await child.hear_cancel() == asked.identity
            await trio.sleep(0.25)
            await child.finish(asked.identity, "cancelled")
        case "crash" | "stall":
            if end == "crash":
                child.die()
            again = await place.children.next()  # the watchdog killed a silent child
            await again.load()
            await again.hear_generate()
            await again.finish(asked.identity)


@trio_test
async def test_clients_take_turns(autojump_clock: MockClock, children: Children) -> None:
    """A client with one request does not wait behind all requests of another."""
    del autojump_clock
    async with open_place(children) as (place, child):
        first = place.admit(client="a")
        await child.hear_generate()
        greedy = [place.admit(client="a") for _ in range(3)]
        modest = place.admit(client="b")
        await child.finish(first.identity)
        order = []
        for _ in range(4):
            order.append(await child.hear_generate())
            await child.finish(order[-1])
        assert order == [each.identity for each in (greedy[0], modest, greedy[1], greedy[2])]


@trio_test
async def test_who_fills_the_queue_makes_room(
    autojump_clock: MockClock, children: Children
) -> None:
    """In a full queue the newest request of the largest client makes room for another client."""
    del autojump_clock
    async with open_place(children, queue=3) as (place, child):
        served = place.admit(client="a")
        await child.hear_generate()
        greedy = [place.admit(client="a") for _ in range(3)]
        modest = place.admit(client="b")
        with pytest.raises(QueueFullError):
            await greedy[2].answer.receive()
        with pytest.raises(QueueFullError):
            place.admit(client="b")
        assert place.load == (4, 3, 1)
        assert place.statuses == ["rejected", "rejected"]
        for each in (served, greedy[0], modest, greedy[1]):
            if each is not served:
                assert await child.hear_generate() == each.identity
            await child.finish(each.identity)
        assert place.statuses[2:] == ["ok"] * 4


@trio_test
async def test_retry_after_follows_the_observed_rate(
    autojump_clock: MockClock, children: Children
) -> None:
    """`Retry-After` is the time in which half of the queue will have been served."""
    del autojump_clock
    async with open_place(children, queue=3) as (place, child):
        asked = place.admit()
        await child.hear_generate()
        await trio.sleep(10)
        await child.finish(asked.identity)
        place.admit()
        await child.hear_generate()
        for _ in range(3):
            place.admit()
        with pytest.raises(QueueFullError) as refused:
            place.admit()
        assert refused.value.retry_after_seconds == 20


@trio_test
async def test_longer_answer_than_allowed_is_refused(
    autojump_clock: MockClock, children: Children
) -> None:
    """Above the limit of output tokens a request is refused, and without a request it applies."""
    del autojump_clock
    asked = Asked(limits=Limits(output_tokens=5, seconds=9))
    async with open_empty_place(children, asked) as place:
        with pytest.raises(InvalidRequestError, match="at most 5") as refused:
            place.admit(max_tokens=6)
        assert refused.value.parameter == "max_tokens"
        assert place.statuses == ["rejected"]
        request = place.admit(max_tokens=0).answer.request
        assert (request.max_tokens, request.deadline_seconds) == (5, 9)


@trio_test
async def test_model_is_loaded_for_its_first_request(
    autojump_clock: MockClock, children: Children
) -> None:
    """A model on disk is loaded for its first request."""
    del autojump_clock
    async with open_empty_place(children, Asked(resident=False)) as place:
        assert (place.engine.state, place.engine.healthy) == ("unloaded", True)
        assert place.lane.has_free_slot
        asked = place.admit()
        child = await children.next()
        states: list[str] = [place.engine.state]
        await child.load()
        states.append(place.engine.state)
        assert states == ["loading", "ready"]
        assert await child.hear_generate() == asked.identity


@trio_test
async def test_request_for_a_model_that_cannot_be_loaded_is_told_why(
    autojump_clock: MockClock, children: Children
) -> None:
    """If the load fails, the request fails with the reason, and the next one tries again."""
    del autojump_clock
    async with open_empty_place(children, Asked(resident=False)) as place:
        for _ in range(2):
            asked = place.admit()
            child = await children.next()
            await child.hear()
            await child.say(protocol.LoadFailed("it is damaged"))
            with pytest.raises(UnavailableError, match="damaged"):
                await asked.answer.receive()
            assert place.engine.state == "unloaded"


@trio_test
async def test_model_without_room_is_refused_before_an_engine_starts(
    autojump_clock: MockClock, children: Children
) -> None:
    """A model without room in memory is refused before an engine is started for it."""
    del autojump_clock
    asked = Asked(resident=False, shortage="9 MiB are free")
    async with open_empty_place(children, asked) as place:
        request = place.admit()
        with pytest.raises(InsufficientMemoryError, match="9 MiB are free"):
            await request.answer.receive()
        assert not children.started


@trio_test
async def test_model_that_loads_has_its_memory_already(
    autojump_clock: MockClock, children: Children
) -> None:
    """Memory of a loading model is taken, and is free again if the load fails."""
    del autojump_clock
    async with open_empty_place(children, Asked(resident=False)) as place:
        request = place.admit()
        assert place.engine.model.weights_bytes == 0
        child = await children.next()
        await child.hear()
        assert place.engine.model.weights_bytes == DESCRIBED.size_bytes
        assert not place.engine.ready
        await child.say(protocol.LoadFailed("it is damaged"))
        with pytest.raises(UnavailableError, match="damaged"):
            await request.answer.receive()
        assert place.engine.model.weights_bytes == 0


@trio_test
async def test_unloaded_model_is_finished_with_and_stays_away(
    autojump_clock: MockClock, children: Children
) -> None:
    """An unload finishes the model's requests and refuses new ones until it is loaded again."""
    del autojump_clock
    async with open_place(children) as (place, child), trio.open_nursery() as nursery:
        asked = place.admit()
        await child.hear_generate()
        nursery.start_soon(place.scheduler.unload, "m")
        await wait_all_tasks_blocked()
        with pytest.raises(UnavailableError, match="unloaded"):
            place.admit()
        assert place.engine.ready
        await child.finish(asked.identity)
        assert child.has_ended
        assert ModelUnloaded("m", "requested") in place.emitted
        assert (place.engine.state, place.engine.healthy) == ("unloaded", True)
        nursery.start_soon(place.scheduler.load, "m")
        await (await children.next()).load()
        place.admit()


@trio_test
async def test_unload_that_is_given_up_leaves_the_model_as_it_was(
    autojump_clock: MockClock, children: Children
) -> None:
    """An unload whose caller leaves too early leaves the model in service."""
    del autojump_clock
    async with open_place(children) as (place, child):
        first = place.admit()
        await child.hear_generate()
        with trio.move_on_after(1) as patience:
            await place.scheduler.unload("m")
        assert patience.cancelled_caught
        second = place.admit()
        await child.finish(first.identity)
        assert await child.hear_generate() == second.identity
        assert (place.engine.resident, child.has_ended) == (True, False)


@trio_test
async def test_model_that_is_wanted_in_the_moment_of_its_unload_is_let_go(
    autojump_clock: MockClock, children: Children
) -> None:
    """A model that is requested during its idle unload is unloaded and loaded again."""
    del autojump_clock

    async def want(engine: Engine) -> None:
        engine.want()

    async with open_place(children) as (place, first):
        child = first
        for _ in range(20):  # Trio chooses the order of tasks that can run at the same time
            async with trio.open_nursery() as moment:
                moment.start_soon(place.engine.unload, "requested")
                moment.start_soon(want, place.engine)
            assert child.has_ended
            place.engine.want()
            child = await children.next()
            await child.load()
            assert place.engine.ready


@trio_test
async def test_unload_stops_a_load(autojump_clock: MockClock, children: Children) -> None:
    """An unload cancels a load, and waiting requests fail with that reason."""
    del autojump_clock
    async with open_empty_place(children, Asked()) as place, trio.open_nursery() as nursery:

        async def load() -> None:
            with pytest.raises(UnavailableError, match="unloaded"):
                await place.scheduler.load("m")

        nursery.start_soon(load)
        child = await children.next()
        await child.hear()
        await place.scheduler.unload("m")
        assert child.has_ended


@trio_test
async def test_idle_model_is_unloaded_until_it_is_asked_for(
    autojump_clock: MockClock, children: Children
) -> None:
    """An idle model is unloaded, and loaded again for the next request."""
    async with open_place(children, idle_seconds=60) as (place, child):
        asked = place.admit()
        await child.hear_generate()
        await child.finish(asked.identity)
        ended_at = autojump_clock.current_time()
        await trio.sleep(59)
        assert place.engine.ready
        await trio.sleep(2)
        assert (place.engine.state, child.has_ended) == ("unloaded", True)
        assert ModelUnloaded("m", "idle") in place.emitted
        assert autojump_clock.current_time() - ended_at == 61
        asked = place.admit()
        again = await children.next()
        await again.load()
        assert await again.hear_generate() == asked.identity


@trio_test
async def test_load_on_purpose_restarts_the_idle_time(
    autojump_clock: MockClock, children: Children
) -> None:
    """Loading a model explicitly restarts its idle time."""
    async with open_place(children, idle_seconds=60) as (place, child):
        await trio.sleep(61)
        assert child.has_ended
        await trio.sleep(50)  # ten seconds before the idle time is over again
        async with trio.open_nursery() as nursery:
            nursery.start_soon(place.scheduler.load, "m")
            await (await children.next()).load()
        loaded_at = autojump_clock.current_time()
        await trio.sleep(59)
        assert place.engine.ready
        await trio.sleep(2)
        assert (place.engine.ready, autojump_clock.current_time() - loaded_at) == (False, 61)


@trio_test
async def test_children_that_get_nothing_done_are_started_ever_later(
    autojump_clock: MockClock, children: Children
) -> None:
    """Restarts back off in a crash loop; a child that worked before is replaced at once."""
    async with open_place(children) as (place, first):
        child = first
        pauses = []
        for _ in range(4):
            died_at = autojump_clock.current_time()
            child.die()
            child = await children.next()
            pauses.append(autojump_clock.current_time() - died_at)
            await child.load()
        asked = place.admit()
        await child.hear_generate()
        await child.say_tokens(asked.identity, "a")
        died_at = autojump_clock.current_time()
        child.die()
        await children.next()
        pauses.append(autojump_clock.current_time() - died_at)
        assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 0.1])


@trio_test
async def test_as_many_requests_run_as_there_are_slots(
    autojump_clock: MockClock, children: Children
) -> None:
    """Requests run together up to the engine's slots; the next one begins when one ends."""
    del autojump_clock
    async with open_place(children, slots=2) as (place, child):
        first, second, third = place.admit(), place.admit(), place.admit()
        begun = {await child.hear_generate(), await child.hear_generate()}
        assert begun == {first.identity, second.identity}
        assert place.load == (3, 1, 2)
        assert list(place.lane.waiting) == [third]
        await child.say_tokens(second.identity, "b")
        await child.say_tokens(first.identity, "a")
        assert await first.answer.receive() == Delta("a", 1)
        assert await second.answer.receive() == Delta("b", 1)
        await child.finish(second.identity)
        assert await child.hear_generate() == third.identity
        for asked in (first, third):
            await child.finish(asked.identity)
        assert place.statuses == ["ok", "ok", "ok"]
        assert place.load == (0, 0, 0)


@trio_test
async def test_cancel_of_one_slot_leaves_the_others(
    autojump_clock: MockClock, children: Children
) -> None:
    """A caller who leaves frees only the slot of that request."""
    del autojump_clock
    async with open_place(children, slots=2) as (place, child):
        gone, stays = place.admit(), place.admit()
        assert {await child.hear_generate(), await child.hear_generate()} == {
            gone.identity,
            stays.identity,
        }
        gone.answer.close()
        assert await child.hear_cancel() == gone.identity
        was_free = place.lane.has_free_slot
        await child.finish(gone.identity, "cancelled")
        assert (was_free, place.lane.has_free_slot) == (False, True)
        await child.say_tokens(stays.identity, "x")
        assert await stays.answer.receive() == Delta("x", 1)
        await child.finish(stays.identity)
        assert place.statuses == ["cancelled", "ok"]


@trio_test
async def test_crash_interrupts_every_slot(autojump_clock: MockClock, children: Children) -> None:
    """After a crash every request continues from its own tokens."""
    del autojump_clock
    async with open_place(children, slots=2) as (place, child):
        attempts = {asked.identity: asked for asked in (place.admit(), place.admit())}
        for identity in attempts:
            await child.hear_generate()
            await child.say_tokens(identity, "a" * identity)
        child.die()
        again = await children.next()
        await again.load(slots=2)
        for _ in attempts:
            command = await again.hear()
            assert isinstance(command, protocol.Generate)
            assert command.prior == attempts[command.request].prior
            assert len(command.prior) == 1
        for identity in attempts:
            await again.finish(identity)
        assert place.statuses == ["ok", "ok"]


@trio_test
async def test_slot_that_stalls_beside_a_busy_one_is_noticed(
    autojump_clock: MockClock, children: Children
) -> None:
    """A request without tokens stalls the engine although another one gets tokens."""
    del autojump_clock
    async with open_place(children, slots=2) as (place, child):
        busy, silent = place.admit(), place.admit()
        for asked in (busy, silent):
            await child.hear_generate()
            await child.say_tokens(asked.identity, "x")
        began = trio.current_time()
        with contextlib.suppress(trio.ClosedResourceError):  # once the engine is killed
            while not child.has_ended:
                await child.say(protocol.Sampled(busy.identity, 1, b"x"))
                await trio.sleep(1)
        await wait_all_tasks_blocked()
        assert STALL_SECONDS <= trio.current_time() - began < 2 * STALL_SECONDS
        assert EngineRestarted("m", "stalled") in place.emitted


@trio_test
async def test_prompt_that_waits_for_another_is_not_stalled(
    autojump_clock: MockClock, children: Children
) -> None:
    """A prompt may wait for a long one in the same engine, as long as that one progresses."""
    del autojump_clock
    async with open_place(children, slots=2) as (place, child):
        long, behind = place.admit(), place.admit()
        for _ in (long, behind):
            await child.hear_generate()
        for done in range(1, int(3 * STALL_SECONDS)):
            await child.say(protocol.Evaluated(long.identity, done, 1000, 0))
            await trio.sleep(1)
        assert not child.has_ended
        assert place.engine.model.silent_seconds < 2


@trio_test
async def test_turn_passes_to_an_engine_that_waits(
    autojump_clock: MockClock, children: Children
) -> None:
    """An engine with a full queue begins nothing new while another engine waits for its turn."""
    del autojump_clock
    async with open_place(children, slots=2) as (place, child), trio.open_nursery() as nursery:
        first, second = place.admit(), place.admit()
        for _ in (first, second):
            await child.hear_generate()
        other = trio.Event()

        async def take_turn() -> None:
            async with place.turns:
                other.set()

        nursery.start_soon(take_turn)
        await wait_all_tasks_blocked()
        third = place.admit()
        await child.finish(first.identity)
        assert not other.is_set()
        assert list(place.lane.waiting) == [third]
        await child.finish(second.identity)
        assert other.is_set()
        assert await child.hear_generate() == third.identity
        await child.finish(third.identity)


@trio_test
async def test_bug_in_one_request_leaves_the_others(
    autojump_clock: MockClock, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error in one request fails that request and is counted; others continue."""
    del autojump_clock
    async with open_place(children, slots=2) as (place, child):
        stays = place.admit()
        await child.hear_generate()
        broken = place.admit()
        monkeypatch.setattr(broken, "begin", lambda _: 1 / 0)
        with pytest.raises(RequestError, match="internal error"):
            await broken.answer.receive()
        assert place.failed == ["lane"]
        await child.say_tokens(stays.identity, "x")
        await child.finish(stays.identity)
        assert place.statuses == ["error", "ok"]
