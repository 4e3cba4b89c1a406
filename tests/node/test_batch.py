"""Several requests of one caller take turns with others, and end together."""

from collections.abc import Sequence
from contextlib import ExitStack

import pytest
import trio
from trio.testing import MockClock, trio_test, wait_all_tasks_blocked

from node.api.batch import Admit, Batch
from node.api.request_id import read_whole
from node.errors import ContextLengthError, QueueFullError
from node.requests.answer import Answer
from node.requests.request import InferenceRequest, Sampling
from tests.node.memory_child import Children, MemoryChild
from tests.node.test_scheduler import Place, open_place


def wanted(count: int) -> list[InferenceRequest]:
    return [
        InferenceRequest(
            model_id="m",
            prompt=f"p{number}",
            max_tokens=7,
            sampling=Sampling(0, 1, 1, 1, 1),
            client="batch",
        )
        for number in range(count)
    ]


def admission(place: Place, owner: ExitStack) -> Admit:
    return lambda request: owner.enter_context(place.scheduler.admit(request).answer)


async def answer_next(child: MemoryChild, text: str) -> None:
    request = await child.hear_generate()
    await child.say_tokens(request, text)
    await child.finish(request)


async def read_texts(batch: Batch, count: int) -> Sequence[str]:
    """Return the texts of a batch, by the numbers of its requests."""
    texts = [""] * count

    async def read(number: int, answer: Answer) -> None:
        texts[number], _ = await read_whole(answer)

    await batch.run(read)
    return texts


@pytest.mark.parametrize("queue", [2, 4, 64])
@trio_test
async def test_batch_is_answered_however_short_the_queue(
    autojump_clock: MockClock, children: Children, queue: int
) -> None:
    """A batch that is larger than the queue is answered whole, each request counted by itself."""
    del autojump_clock
    async with open_place(children, queue=queue) as (place, child), trio.open_nursery() as nursery:
        found: list[str] = []

        async def ask() -> None:
            with ExitStack() as owner:
                found.extend(await read_texts(Batch(wanted(20), admission(place, owner)), 20))

        nursery.start_soon(ask)
        for number in range(20):
            await answer_next(child, f"t{number}")
        await wait_all_tasks_blocked()
        assert found == [f"t{number}" for number in range(20)]
        assert place.statuses.count("ok") == 20
        assert place.lane.idle


@trio_test
async def test_other_client_is_served_after_one_request_of_a_batch(
    autojump_clock: MockClock, children: Children
) -> None:
    """A client that comes later is next, however large the batch is."""
    del autojump_clock
    async with open_place(children, queue=64) as (place, child), trio.open_nursery() as nursery:
        with ExitStack() as owner:
            nursery.start_soon(read_texts, Batch(wanted(50), admission(place, owner)), 50)
            first = await child.hear_generate()
            other = place.admit(client="other")
            await child.finish(first)
            following = [await child.hear_generate()]
            await child.finish(following[0])
            following.append(await child.hear_generate())
            assert other.identity in following
            nursery.cancel_scope.cancel()


@trio_test
async def test_full_queue_refuses_a_batch(autojump_clock: MockClock, children: Children) -> None:
    """A batch without a place for any of its requests fails with 429."""
    del autojump_clock
    async with open_place(children, queue=2) as (place, child):
        place.admit()
        await child.hear_generate()
        others = [place.admit(client="a"), place.admit(client="b")]
        with ExitStack() as owner, pytest.raises(QueueFullError):
            await read_texts(Batch(wanted(5), admission(place, owner)), 5)
        assert not any(other.over for other in others)


@trio_test
async def test_failed_request_ends_the_batch(autojump_clock: MockClock, children: Children) -> None:
    """The first error is the batch's, and cancels its other requests."""
    del autojump_clock
    async with open_place(children, queue=64) as (place, child), trio.open_nursery() as nursery:

        async def ask() -> None:
            with ExitStack() as owner, pytest.raises(ContextLengthError):
                await read_texts(Batch(wanted(5), admission(place, owner)), 5)

        nursery.start_soon(ask)
        await child.finish(await child.hear_generate(), "too_long")
        if not place.lane.idle:  # the engine began the next one before that was cancelled
            await child.finish(await child.hear_generate(), "cancelled")
        assert place.lane.idle
        assert sorted(place.statuses) == ["cancelled"] * 4 + ["rejected"]


@trio_test
async def test_leaving_cancels_the_whole_batch(
    autojump_clock: MockClock, children: Children
) -> None:
    """A caller that leaves leaves nothing in the queue or the engine."""
    del autojump_clock
    async with open_place(children, queue=64) as (place, child):
        async with trio.open_nursery() as nursery:
            with ExitStack() as owner:
                nursery.start_soon(read_texts, Batch(wanted(5), admission(place, owner)), 5)
                identity = await child.hear_generate()
                nursery.cancel_scope.cancel()
        assert await child.hear_cancel() == identity
        await child.finish(identity, "cancelled")
        assert place.statuses == ["cancelled"] * 5
        assert place.lane.idle
