"""The carrier delivers every event to the exporter, whatever that is doing."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pynng
import pytest
import trio
from trio.testing import trio_test

from node.telemetry.carrier import FLUSH_SECONDS, open_carrier
from node.telemetry.outbox import EVENTS_LIMIT, Outbox
from shared import wire
from shared.events.requests import TokensGenerated
from tests.guards import strict_guard

LIMIT_SECONDS = 30.0
ACCEPTED = wire.Reply(wire.PROTOCOL, 0, True, False, "")


@asynccontextmanager
async def carried(
    directory: Path, report: Callable[[Outbox], None] = lambda _: None
) -> AsyncIterator[Outbox]:
    """Carry an outbox to a socket in a directory until the block ends."""
    outbox = Outbox("n", "s", trio.current_time())
    path = directory / "x.sock"
    with trio.fail_after(LIMIT_SECONDS):
        async with open_carrier(outbox, path, list, strict_guard(), lambda: report(outbox)):
            yield outbox


def listen(directory: Path) -> pynng.Rep0:
    return pynng.Rep0(listen=f"ipc://{directory / 'x.sock'}")


async def take(socket: pynng.Rep0, reply: bytes | None = None) -> wire.Batch:
    """Take one batch and answer it."""
    batch = msgspec.msgpack.decode(await socket.arecv(), type=wire.Batch)
    await socket.asend(msgspec.msgpack.encode(ACCEPTED) if reply is None else reply)
    return batch


@pytest.mark.slow
@trio_test
async def test_absent_exporter_costs_no_event_while_the_bytes_suffice(tmp_path: Path) -> None:
    """Events that wait for an exporter are packed, and all of them arrive."""
    count = 0
    async with trio.open_nursery() as nursery, carried(tmp_path) as outbox:
        for _ in range(8):
            for _ in range(EVENTS_LIMIT // 4):
                outbox.emit(TokensGenerated("m", 1))
            count += EVENTS_LIMIT // 4
            await trio.sleep(10 * FLUSH_SECONDS)
        socket = listen(tmp_path)
        nursery.start_soon(_take_until_goodbye, socket, count)


async def _take_until_goodbye(socket: pynng.Rep0, count: int) -> None:
    with socket:
        while not (batch := await take(socket)).goodbye:
            pass
    assert batch.dropped == {}
    assert batch.emitted == count


@trio_test
async def test_what_is_counted_meanwhile_is_reported_at_each_flush(tmp_path: Path) -> None:
    """Each flush asks for the counts since the last, and the last of them are sent at the end."""

    def report(outbox: Outbox) -> None:
        outbox.emit(TokensGenerated("m", 1))

    with listen(tmp_path) as socket:
        async with trio.open_nursery() as nursery:  # inside, so that no task reads a closed socket
            async with carried(tmp_path, report):
                emitted = 0
                while emitted < 3:
                    emitted = (await take(socket)).emitted
                batches: list[wire.Batch] = []
                nursery.start_soon(_take_all, socket, batches)
            nursery.cancel_scope.cancel()
    assert batches[-1].goodbye
    assert batches[-1].emitted > emitted


@pytest.mark.parametrize(
    "nonsense", [b"", b"\xc1", b"\x95\x01\x02\x03\xc2\xa2\xff\xfe", b"\x95" * 3000]
)
@trio_test
async def test_nonsense_for_an_answer_does_not_end_the_node(
    tmp_path: Path, nonsense: bytes
) -> None:
    """A batch is sent again until it gets a valid reply."""
    async with trio.open_nursery() as nursery, carried(tmp_path) as outbox:
        socket = listen(tmp_path)
        outbox.emit(TokensGenerated("m", 7))
        first = await take(socket, nonsense)
        again = await take(socket)
        assert again.first_sequence == first.first_sequence
        nursery.start_soon(_take_until_goodbye, socket, 1)


@trio_test
async def test_node_that_fails_sends_its_last_events_and_no_goodbye(tmp_path: Path) -> None:
    """A node that fails sends its last events, but no goodbye."""
    batches: list[wire.Batch] = []
    with listen(tmp_path) as socket:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_take_all, socket, batches)
            await _fail(tmp_path)
            nursery.cancel_scope.cancel()
    assert batches[-1].emitted == 1
    assert not any(batch.goodbye for batch in batches)


async def _take_all(socket: pynng.Rep0, batches: list[wire.Batch]) -> None:
    while True:
        batches.append(await take(socket))


async def _fail(directory: Path) -> None:
    try:
        async with carried(directory) as outbox:
            outbox.emit(TokensGenerated("m", 1))
            raise ZeroDivisionError  # noqa: TRY301 - the block itself fails
    except* ZeroDivisionError:
        pass
