"""Waiting requests go to the first free node, come back if need be, and count once."""

import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, trio_test, wait_all_tasks_blocked

from node.engine.options import Watcher
from node.engine.supervisor import Engine
from node.errors import InvalidRequestError, QueueFullError, RequestError, UnavailableError
from node.requests.answer import Answer, Delta
from node.requests.attempt import Attempt
from node.requests.request import InferenceRequest, Sampling
from node.routing import wire
from node.routing.choice import PeerModel
from node.routing.client import PeerClient, PeerLostError, PeerRefusedError
from node.routing.router import Router
from node.serving.lane import Lane, LaneOptions
from node.serving.scheduler import Limits, Scheduler
from shared.events.event import Event
from shared.events.requests import InferenceFinished, RequestForwarded
from shared.events.trace import TraceContext
from shared.runtime.guard import Guard
from tests.builders import TRACE
from tests.node.memory_child import Children, MemoryChild
from tests.node.test_scheduler import FOREVER_SECONDS

ROUND_SECONDS = 1.0
BUSY = PeerRefusedError(429, "no slot is free", "no_free_slot", None)


@dataclass
class Question:
    """A request to a peer, and the peer's answer."""

    request: InferenceRequest
    frames: trio.MemorySendChannel[wire.Frame]
    gone: trio.Event = field(default_factory=trio.Event)
    """Set when the caller has left."""

    def say(self, *frames: wire.Frame) -> None:
        """Answer."""
        for frame in frames:
            self.frames.send_nowait(frame)

    def begin(self) -> None:
        """Admit the request and begin with it."""
        self.say(wire.Admitted(), wire.Begun(), wire.Accepted())

    def finish(self) -> None:
        """Answer with one token."""
        self.say(wire.Drawn(7, b"there"), wire.Ended("stop", 3, 1))
        self.frames.close()


class MemoryPeers(PeerClient):
    """Peers in memory in place of mesh and HTTP; the test chooses their answers."""

    def __init__(self) -> None:
        self.adverts: dict[str, tuple[PeerModel, float]] = {}
        self.refusals: dict[str, Exception] = {}
        self._send, self._questions = trio.open_memory_channel[tuple[str, Question]](math.inf)

    def advertise(self, node_id: str, in_flight: int, **changed: Any) -> None:
        """Deliver a peer's advert to this node."""
        fields: dict[str, Any] = {
            "model_id": "m",
            "url": node_id,
            "loaded": True,
            "slots": 1,
        } | changed
        advert = PeerModel(node_id=node_id, in_flight=in_flight, **fields)
        self.adverts[node_id] = advert, trio.current_time()

    def find(self, model_id: str) -> Sequence[PeerModel]:
        """Return the peers that have a model."""
        now = trio.current_time()
        return [
            replace(advert, age_seconds=now - heard_at)
            for advert, heard_at in self.adverts.values()
            if advert.model_id == model_id
        ]

    def models(self) -> set[str]:
        """Return the models that peers have."""
        return {advert.model_id for advert, _ in self.adverts.values()}

    def is_living(self, node_id: str) -> bool:
        """Return whether a peer has an advert."""
        return node_id in self.adverts

    async def hear(self) -> tuple[str, Question]:
        """Wait for a request to a peer."""
        return await self._questions.receive()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Open nothing."""
        yield

    @asynccontextmanager
    async def ask(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> AsyncIterator[AsyncIterator[wire.Frame]]:
        """Ask."""
        del headers
        await trio.lowlevel.checkpoint()
        if url in self.refusals:
            raise self.refusals[url]
        send, receive = trio.open_memory_channel[wire.Frame](math.inf)
        question = Question(wire.read_request(body), send)
        self._send.send_nowait((url, question))
        try:
            yield receive
        finally:
            question.gone.set()


@dataclass
class Node:
    """A node with one model, and its peers."""

    router: Router
    scheduler: Scheduler
    lane: Lane
    peers: MemoryPeers
    emitted: list[Event]
    owner: ExitStack

    def admit(self, owner: ExitStack | None = None, **changed: Any) -> Answer:
        """Ask for an answer."""
        fields: dict[str, Any] = {
            "model_id": "m",
            "prompt": "p",
            "max_tokens": 7,
            "sampling": Sampling(0, 1, 1, 1, 1),
        }
        request = InferenceRequest(**(fields | changed))
        return self.router.admit(request, owner or self.owner)

    @property
    def forwards(self) -> list[RequestForwarded]:
        """Return the ends of what peers answered."""
        return [event for event in self.emitted if isinstance(event, RequestForwarded)]

    @property
    def statuses(self) -> list[str]:
        """Return the statuses of ended requests in this node's account."""
        return [event.status for event in self.emitted if isinstance(event, InferenceFinished)]


@asynccontextmanager
async def open_node(
    children: Children, *, queue: int = 4, limits: Limits | None = None
) -> AsyncIterator[tuple[Node, MemoryChild]]:
    """Run a node whose model is loaded."""
    emitted: list[Event] = []
    failed: list[str] = []
    guard = Guard[str](failed.append)
    scheduler = Scheduler(emitted.append, limits or Limits())
    watcher = Watcher(emitted.append, lambda _: "", scheduler.note_change)
    engine = Engine("m", children.options, watcher)
    engine.resident = True
    options = LaneOptions(queue_limit=queue)
    turns = trio.CapacityLimiter(1)
    lane = Lane(engine, options, turns, emitted.append, scheduler.note_change)
    scheduler.add(lane)
    peers = MemoryPeers()
    router = Router(scheduler, peers, peers, emitted.append, guard)
    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(FOREVER_SECONDS))
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(router.run)
        nursery.start_soon(guard, "lane", lane.run, guard)
        nursery.start_soon(engine.run)
        nursery.start_soon(scheduler.load, "m")
        child = await children.next()
        await child.load()
        with ExitStack() as owner:
            yield Node(router, scheduler, lane, peers, emitted, owner), child
        nursery.cancel_scope.cancel()


async def read(answer: Answer) -> str:
    text = ""
    while isinstance(delta := await answer.receive(), Delta):
        text += delta.text
    return text


@trio_test
async def test_free_node_answers_itself(autojump_clock: MockClock, children: Children) -> None:
    """A free node answers itself, whatever peers advertise."""
    del autojump_clock
    async with open_node(children) as (node, child):
        node.peers.advertise("b", 0)
        for _ in range(3):
            answer = node.admit()
            await child.finish(await child.hear_generate())
            await read(answer)
        assert node.statuses == ["ok"] * 3
        assert node.peers._questions.statistics().current_buffer_used == 0


@trio_test
async def test_waiting_request_goes_to_the_peer_that_becomes_free(
    autojump_clock: MockClock, children: Children
) -> None:
    """A waiting request goes to the peer that becomes free, which counts it."""
    async with open_node(children) as (node, child):
        node.peers.advertise("b", 1)
        node.admit()
        await child.hear_generate()
        answer = node.admit()
        await trio.sleep(5)
        node.peers.advertise("b", 0)
        freed_at = autojump_clock.current_time()
        name, question = await node.peers.hear()
        assert (name, question.request.only_if_free, question.request.forwarded) == (
            "b",
            True,
            True,
        )
        assert autojump_clock.current_time() - freed_at <= 0.1
        assert question.request.waited_seconds == pytest.approx(5, abs=0.2)
        question.begin()
        question.finish()
        assert await read(answer) == "there"
        assert node.statuses == []
        assert node.lane.load().queued == 0


@trio_test
async def test_head_of_the_queue_goes_first(autojump_clock: MockClock, children: Children) -> None:
    """A peer takes the request whose turn it is, as the local engine does."""
    del autojump_clock
    async with open_node(children) as (node, child):
        node.peers.advertise("b", 1)
        node.admit(client="x")
        await child.hear_generate()
        for client, name in (("x", "x1"), ("x", "x2"), ("y", "y1")):
            node.admit(client=client, request_id=name)
        order = []
        for _ in range(3):
            node.peers.advertise("b", 0)
            _, question = await node.peers.hear()
            order.append(question.request.request_id)
            question.begin()
            question.finish()
            await wait_all_tasks_blocked()
        assert order == ["x1", "y1", "x2"]


@trio_test
async def test_request_waits_here_for_whoever_is_free_first(
    autojump_clock: MockClock, children: Children
) -> None:
    """If every peer is busy, the request is served here when this node is free."""
    del autojump_clock
    async with open_node(children) as (node, child):
        node.peers.advertise("b", 1)
        node.admit()
        first = await child.hear_generate()
        answer = node.admit()
        await trio.sleep(20)
        await child.finish(first)
        second = await child.hear_generate()
        await child.say_tokens(second, "here")
        await child.finish(second)
        assert await read(answer) == "here"
        assert node.statuses == ["ok", "ok"]


@pytest.mark.parametrize(
    "refusal",
    [
        BUSY,
        PeerRefusedError(503, "draining", "unavailable", None),
        PeerRefusedError(400, "max_tokens", None, None),
        PeerLostError("connection refused"),
    ],
)
@trio_test
async def test_refused_request_keeps_its_place(
    autojump_clock: MockClock, children: Children, refusal: Exception
) -> None:
    """A request that a peer refuses keeps its place at the head of the queue."""
    del autojump_clock
    async with open_node(children) as (node, child):
        node.admit()
        first = await child.hear_generate()
        head = node.admit()
        node.admit()
        node.peers.refusals["b"] = refusal
        node.peers.advertise("b", 0)
        await trio.sleep(1)
        assert node.lane.load().queued == 2
        await child.finish(first)
        second = await child.hear_generate()
        await child.say_tokens(second, "here")
        await child.finish(second)
        assert await read(head) == "here"
        assert node.statuses == ["ok", "ok"]


@trio_test
async def test_peer_that_refused_is_asked_again_after_its_next_advert(
    autojump_clock: MockClock, children: Children
) -> None:
    """A peer that refused is not asked again before its next advert."""
    del autojump_clock
    async with open_node(children) as (node, child):
        node.admit()
        await child.hear_generate()
        answer = node.admit()
        node.peers.refusals["b"] = BUSY
        node.peers.advertise("b", 0)
        await trio.sleep(1)
        del node.peers.refusals["b"]
        await trio.sleep(5)
        assert node.peers._questions.statistics().current_buffer_used == 0
        node.peers.advertise("b", 0)
        _, question = await node.peers.hear()
        question.begin()
        question.finish()
        assert await read(answer) == "there"


@trio_test
async def test_peer_that_hangs_holds_a_request_for_a_moment_only(
    autojump_clock: MockClock, children: Children
) -> None:
    """A peer that does not reply is given up, and the request is served here."""
    async with open_node(children) as (node, child):
        node.admit()
        first = await child.hear_generate()
        answer = node.admit()
        node.peers.advertise("b", 0)
        _, question = await node.peers.hear()
        await child.finish(first)
        began = autojump_clock.current_time()
        second = await child.hear_generate()
        assert autojump_clock.current_time() - began <= 2
        assert question.gone.is_set()
        await child.finish(second)
        await read(answer)
        assert node.statuses == ["ok", "ok"]


@trio_test
async def test_requests_are_counted_once_wherever_they_go(
    autojump_clock: MockClock, children: Children
) -> None:
    """Several peers and this node share a queue; each request is begun by one of them."""
    del autojump_clock
    async with open_node(children, queue=20) as (node, child):
        for name in "bcd":
            node.peers.advertise(name, 0)
        answers = [node.admit() for _ in range(20)]
        elsewhere = 0

        async def serve_here() -> None:
            while True:
                identity = await child.hear_generate()
                await trio.sleep(0.5)
                await child.say_tokens(identity, "here")
                await child.finish(identity)

        async def serve_there() -> None:
            nonlocal elsewhere
            while True:
                _, question = await node.peers.hear()
                question.begin()
                await trio.sleep(0.3)
                question.finish()
                elsewhere += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_here)
            for _ in "bcd":
                nursery.start_soon(serve_there)
            texts = [await read(answer) for answer in answers]
            nursery.cancel_scope.cancel()
        assert elsewhere == texts.count("there") > 0
        assert node.statuses == ["ok"] * texts.count("here")


@trio_test
async def test_request_that_waits_at_a_peer_goes_to_another_that_is_free_first(
    autojump_clock: MockClock, children: Children
) -> None:
    """A request for a model on peers only is not held by the first queue that it enters."""
    del autojump_clock
    async with open_node(children) as (node, _):
        node.peers.advertise("b", 1, model_id="other")
        node.peers.advertise("c", 2, model_id="other")
        answer = node.admit(model_id="other")
        name, waiting = await node.peers.hear()
        waiting.say(wire.Admitted())
        assert (name, waiting.request.only_if_free) == ("b", False)
        await trio.sleep(3)
        node.peers.advertise("c", 0, model_id="other")
        name, question = await node.peers.hear()
        assert (name, question.request.only_if_free) == ("c", True)
        assert not waiting.gone.is_set()  # its place is kept until the other has begun
        question.begin()
        await waiting.gone.wait()
        question.finish()
        assert await read(answer) == "there"
        assert node.statuses == []


@trio_test
async def test_answer_goes_on_after_its_peer_is_lost(
    autojump_clock: MockClock, children: Children
) -> None:
    """When a peer is lost, the next node continues from the tokens so far, counted once."""
    del autojump_clock
    async with open_node(children) as (node, child):
        node.peers.advertise("b", 0)
        node.admit()
        first = await child.hear_generate()
        answer = node.admit()
        _, question = await node.peers.hear()
        question.begin()
        question.say(wire.Drawn(7, b"one"))
        assert await answer.receive() == Delta("one", 1)
        question.frames.close()
        await wait_all_tasks_blocked()
        await child.finish(first)
        command: Any = await child.hear()
        assert command.prior == (7,)
        await child.say_tokens(command.request, " two")
        await child.finish(command.request)
        assert await read(answer) == " two"
        assert node.statuses == ["ok", "ok"]
        assert [(one.status, one.reason) for one in node.forwards] == [(None, "peer")]


@pytest.mark.parametrize("where", ["queued here", "held", "waits at a peer", "begun at a peer"])
@trio_test
async def test_caller_that_leaves_gives_its_request_up(
    autojump_clock: MockClock, children: Children, where: str
) -> None:
    """A request whose caller leaves counts once: here, unless a peer had begun with it."""
    del autojump_clock
    async with open_node(children) as (node, child):
        node.admit()
        await child.hear_generate()
        model_id = "other" if where == "waits at a peer" else "m"
        if where != "queued here":
            node.peers.advertise("b", int(model_id == "other"), model_id=model_id)
        with ExitStack() as caller:
            node.admit(caller, model_id=model_id)
            question = None
            if where != "queued here":
                _, question = await node.peers.hear()
            if question and where == "begun at a peer":
                question.begin()
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        assert question is None or question.gone.is_set()
        assert node.lane.load().queued == 0
        assert node.statuses == ([] if where == "begun at a peer" else ["cancelled"])
        assert [one.status for one in node.forwards] == (
            ["cancelled"] if where == "begun at a peer" else []
        )


@trio_test
async def test_forward_is_told_with_its_place_in_the_trace(
    autojump_clock: MockClock, children: Children
) -> None:
    """The peer's span is below the forward's, and that below the request's on this node."""
    del autojump_clock
    async with open_node(children) as (node, _):
        node.peers.advertise("b", 0, model_id="other")
        answer = node.admit(model_id="other", trace=TRACE, route="/v1/completions", client="key:1")
        _, question = await node.peers.hear()
        question.begin()
        await trio.sleep(2)
        question.finish()
        assert await read(answer) == "there"
        await wait_all_tasks_blocked()
        (told,) = node.forwards
        assert (told.peer, told.status, told.finish_reason) == ("b", "ok", "stop")
        assert (told.generated_tokens, told.prompt_tokens, told.cached_tokens) == (1, 3, 1)
        assert (told.route, told.client, told.trace) == ("/v1/completions", "key:1", TRACE)
        assert told.seconds == pytest.approx(2)
        assert told.peer_seconds == pytest.approx(2)
        sent = question.request.trace
        assert sent is not None
        assert sent == TraceContext(
            TRACE.trace_id, told.span_id, parent_id=TRACE.span_id, sampled=TRACE.sampled
        )
        assert question.request.route == "/v1/completions"


@trio_test
async def test_fault_of_a_peer_is_the_forwards(
    autojump_clock: MockClock, children: Children
) -> None:
    """A peer that failed with the request ends the forward, with the reason that it had there."""
    del autojump_clock
    async with open_node(children) as (node, _):
        node.peers.advertise("b", 0, model_id="other")
        answer = node.admit(model_id="other")
        _, question = await node.peers.hear()
        question.begin()
        question.say(wire.Failed(500, "engine_failed", "why"))
        with pytest.raises(RequestError, match="why"):
            await answer.receive()
        (told,) = node.forwards
        assert (told.status, told.reason, told.code) == ("error", "engine", "engine_failed")
        assert node.statuses == []


@pytest.mark.parametrize("model_id", ["m", "other"])
@trio_test
async def test_refusal_is_counted_once_wherever_the_model_is(
    autojump_clock: MockClock, children: Children, model_id: str
) -> None:
    """A request that is refused before it is forwarded counts once."""
    del autojump_clock
    async with open_node(children, limits=Limits(output_tokens=9)) as (node, _):
        node.peers.advertise("b", 0, model_id="other")
        with pytest.raises(InvalidRequestError):
            node.admit(model_id=model_id, max_tokens=10)
        await node.router.drain(1)
        with pytest.raises(UnavailableError):
            node.admit(model_id=model_id)
        assert node.statuses == ["rejected", "rejected"]


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (PeerRefusedError(429, "full", "queue_full", 3.0), "rejected"),
        (PeerRefusedError(400, "no", None, None), "rejected"),
        (PeerRefusedError(500, "bug", None, None), "error"),
        (PeerLostError("gone"), "error"),
    ],
)
@trio_test
async def test_request_that_no_peer_takes_is_counted_here(
    autojump_clock: MockClock, children: Children, refusal: Exception, status: str
) -> None:
    """A request that no peer accepts is counted here."""
    del autojump_clock
    async with open_node(children) as (node, _):
        node.peers.advertise("b", 0, model_id="other")
        node.peers.refusals["b"] = refusal
        answer = node.admit(model_id="other")
        with pytest.raises(RequestError):
            await answer.receive()
        assert node.statuses == [status]


@trio_test
async def test_forwarded_request_is_not_forwarded_again(
    autojump_clock: MockClock, children: Children
) -> None:
    """A forwarded request waits here or is refused at once, but is not forwarded again."""
    del autojump_clock
    async with open_node(children) as (node, child):
        node.admit()
        await child.hear_generate()
        node.peers.advertise("b", 0)
        node.admit(forwarded=True)
        with pytest.raises(QueueFullError):
            node.admit(forwarded=True, only_if_free=True)
        await trio.sleep(5)
        assert node.peers._questions.statistics().current_buffer_used == 0
        assert node.lane.load().queued == 1
        assert node.statuses == []


def break_off(question: Question) -> None:
    """Begin, and break off."""
    question.begin()
    question.frames.close()


NONSENSE: list[Callable[[Question], None]] = [
    lambda q: q.frames.close(),
    lambda q: q.say(wire.Failed(429, "", "later")),
    lambda q: q.say(wire.Failed(599, "", "?")),
    lambda q: q.say(wire.Begun(), wire.Failed(503, "", "?")),
    lambda q: q.say(wire.Begun(), wire.Begun(), wire.Failed(503, "", "?")),
    break_off,
]


@pytest.mark.parametrize("answer_of", NONSENSE)
@trio_test
async def test_whatever_a_peer_answers_another_node_goes_on(
    autojump_clock: MockClock, children: Children, answer_of: Callable[[Question], None]
) -> None:
    """After any answer of a peer the request succeeds on another node."""
    del autojump_clock
    async with open_node(children) as (node, child):
        node.admit()
        first = await child.hear_generate()
        node.peers.advertise("b", 0)
        answer = node.admit()
        _, question = await node.peers.hear()
        answer_of(question)
        await wait_all_tasks_blocked()
        await child.finish(first)
        second = await child.hear_generate()
        await child.say_tokens(second, "here")
        await child.finish(second)
        assert await read(answer) == "here"
        assert node.statuses == ["ok", "ok"]


@trio_test
async def test_unexpected_fault_ends_its_request_only(
    autojump_clock: MockClock, children: Children, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected error in forwarding fails its request only, and is logged."""
    del autojump_clock
    async with open_node(children) as (node, _):
        node.peers.advertise("b", 0, model_id="other")
        node.peers.refusals["b"] = KeyError("a bug")
        failed = node.admit(model_id="other")
        with pytest.raises(RequestError, match="see the node"):
            await failed.receive()
        assert "a bug" in caplog.text
        del node.peers.refusals["b"]
        answer = node.admit(model_id="other")
        _, question = await node.peers.hear()
        question.begin()
        question.finish()
        assert await read(answer) == "there"


@trio_test
async def test_router_that_failed_and_runs_again_forwards_as_before(
    autojump_clock: MockClock, children: Children
) -> None:
    """After a restart of the router, waiting requests are forwarded as before."""
    del autojump_clock
    async with open_node(children) as (node, child):
        node.peers.advertise("b", 0, model_id="other")
        node.admit()
        await child.hear_generate()
        waiting = node.admit()
        broken = node.admit(model_id="other")
        _, question = await node.peers.hear()
        question.begin()
        await wait_all_tasks_blocked()
        assert node.router._nursery is not None
        node.router._nursery.cancel_scope.cancel()
        with pytest.raises(RequestError, match="see the node"):
            await broken.receive()
        await wait_all_tasks_blocked()  # it is started again when it has ended
        async with trio.open_nursery() as again:
            await again.start(node.router.run)
            node.peers.advertise("c", 0)
            _, question = await node.peers.hear()
            question.begin()
            question.finish()
            assert await read(waiting) == "there"
            again.cancel_scope.cancel()


@trio_test
async def test_fault_in_placing_ends_nothing(
    autojump_clock: MockClock, children: Children, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected error in choosing a peer is contained, and the next choice is made."""
    del autojump_clock
    async with open_node(children) as (node, child):
        node.admit()
        await child.hear_generate()
        waiting = node.admit()
        node.peers.adverts["b"] = None  # type: ignore[assignment]
        await trio.sleep(1)
        node.peers.advertise("b", 0)
        _, question = await node.peers.hear()
        question.begin()
        question.finish()
        assert await read(waiting) == "there"
        assert caplog.text.count("router failed unexpectedly") == 1


@trio_test
async def test_request_that_brings_out_a_fault_fails_alone(
    autojump_clock: MockClock,
    children: Children,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A request that causes an unexpected error in the lane is not retried; the next is served."""
    del autojump_clock
    begin = Attempt.begin
    broken: list[Attempt] = []

    def begin_later(attempt: Attempt, fingerprint: str = "") -> None:
        if not broken:
            broken.append(attempt)
            raise ValueError("nobody expected this")
        begin(attempt, fingerprint)

    monkeypatch.setattr(Attempt, "begin", begin_later)
    async with open_node(children) as (node, child):
        bad = node.admit()
        good = node.admit()
        with pytest.raises(RequestError, match="see the node"):
            await bad.receive()
        await child.finish(await child.hear_generate())
        await read(good)
        assert node.statuses == ["error", "ok"]
    assert caplog.text.count("lane failed unexpectedly") == 1
