"""The request log: one line for each ended request, bounded, and never in the ingest's way."""

import json
import logging
import os
import resource
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock, trio_test, wait_all_tasks_blocked

from exporter.ingest.batches import Counted
from exporter.journal.opening import open_store
from exporter.metrics.catalogue.exporter import LOG_DROPPED, LOG_LINES
from exporter.metrics.catalogue.family import Family
from exporter.metrics.state import State
from exporter.requests.files import FILES, FileOutput, names
from exporter.requests.line import Line, line_of, write_line
from exporter.requests.log import RequestLog
from exporter.requests.reading import LogReader
from shared.events.event import Event
from shared.events.requests import TokensGenerated
from tests.builders import TRACE, every_event, finished, forwarded, pack_batch

ENDED = msgspec.structs.replace(
    finished(),
    request_id="r1",
    trace=TRACE,
    route="/v1/completions",
    client="key:2fd4e1c67a2d",
    ended_at=1.5e9 + 0.25,
    resumed=1,
)


class Notes:
    """Counts by family and labels."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, ...], float] = {}

    def __call__(self, family: Family, labels: tuple[str, ...], value: float) -> None:
        """Count."""
        key = (family.name, *labels)
        self.counts[key] = self.counts.get(key, 0) + value


class MemoryOutput:
    """Keeps lines, or fails."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.error: OSError | None = None

    def append(self, lines: Sequence[bytes]) -> None:
        """Keep them."""
        if self.error is not None:
            raise self.error
        self.lines += lines


def counted(*happened: Event) -> Counted:
    return Counted("n1", happened, 1.6e9)


def ends(number: int) -> list[Event]:
    return [msgspec.structs.replace(ENDED, request_id=f"r{i}") for i in range(number)]


def test_line_tells_the_story_of_a_request() -> None:
    """A line has when, who, what, how long and how it ended, and every field."""
    line = line_of(ENDED, counted(ENDED))
    assert line is not None
    assert json.loads(write_line(line)) == {
        "time": "2017-07-14T02:40:00.250+00:00",
        "node_id": "n1",
        "request_id": "r1",
        "trace_id": TRACE.trace_id,
        "model_id": "m",
        "operation": "text_completion",
        "route": "/v1/completions",
        "client": "key:2fd4e1c67a2d",
        "status": "ok",
        "reason": None,
        "code": None,
        "finish_reason": "stop",
        "seconds": 2.0,
        "queue_seconds": 0.25,
        "prefill_seconds": 0.5,
        "decode_seconds": 1.25,
        "first_token_seconds": 0.75,
        "prompt_tokens": 5,
        "cached_tokens": 2,
        "generated_tokens": 6,
        "resumed": 1,
        "forwarded_to": None,
    }


def test_forwarded_request_has_a_line_that_names_the_peer() -> None:
    """What a peer answered has no phases here; what a peer lost has not ended."""
    event = forwarded()
    line = line_of(event, counted())
    assert line is not None
    assert (line.forwarded_to, line.status, line.seconds) == ("n2", "ok", 2.0)
    assert (line.prefill_seconds, line.decode_seconds) == (None, None)
    assert line_of(msgspec.structs.replace(event, status=None), counted()) is None


def test_only_ended_requests_have_lines() -> None:
    """No other event is in the request log."""
    lines = [line_of(event, counted()) for event in every_event()]
    assert len([line for line in lines if line is not None]) == 2


def test_end_from_an_older_node_has_the_time_of_its_arrival() -> None:
    """A node that does not report when a request ended sent it a moment later."""
    line = line_of(finished(), counted())
    assert line is not None
    assert line.time.startswith("2020-09-13T12:26:40")


@pytest.mark.parametrize("ended_at", [-1e300, 1e300, float("nan"), float("inf")])
def test_absurd_time_breaks_nothing(ended_at: float) -> None:
    """Whatever a node's clock says, there is a line."""
    assert line_of(msgspec.structs.replace(ENDED, ended_at=ended_at), counted()) is not None


def test_log_is_rotated_and_bounded(tmp_path: Path) -> None:
    """All files together stay below the limit, and hold the newest lines."""
    path, limit = tmp_path / "requests.log", 8000
    output = FileOutput(path, limit)
    for number in range(100):
        output.append([b"%03d %s\n" % (number, b"x" * 500)])
        assert sum(each.stat().st_size for each in names(path) if each.exists()) <= limit
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
        each.name for each in names(path)
    )
    assert len(names(path)) == FILES
    kept = b"".join(each.read_bytes() for each in reversed(names(path)))
    numbers = [int(line[:3]) for line in kept.splitlines()]
    assert numbers == list(range(numbers[0], 100))
    assert path.stat().st_mode & 0o777 == 0o640


def test_moved_file_is_written_again(tmp_path: Path) -> None:
    """After another program moved the file, a new one is begun."""
    output = FileOutput(tmp_path / "log", 1000)
    output.append([b"one\n"])
    (tmp_path / "log").rename(tmp_path / "elsewhere")
    output.append([b"two\n"])
    assert (tmp_path / "log").read_bytes() == b"two\n"


def test_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """Lines that do not fit are left out whole."""
    output = FileOutput(tmp_path / "log", 10**6)
    output.append([b"whole\n"])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            output.append([b"x" * 200 + b"\n"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "log").read_bytes() == b"whole\n"
    output.append([b"again\n"])
    assert (tmp_path / "log").read_bytes() == b"whole\nagain\n"


def test_full_device_is_an_error() -> None:
    """A device that is full raises, and is not rotated away."""
    with pytest.raises(OSError, match="space"):
        FileOutput(Path("/dev/full"), 4).append([b"x\n"])
    assert Path("/dev/full").is_char_device()


@trio_test
async def test_failure_is_counted_and_said_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Lines that cannot be written are counted; the log says so once, and when it is over."""
    del autojump_clock
    output, notes = MemoryOutput(), Notes()
    output.error = OSError("no space left")
    log = RequestLog(output, notes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                log.take(counted(*ends(2)))
                await _written(log)
        assert notes.counts == {(LOG_DROPPED.name, "failed"): 6}
        assert len(caplog.records) == 1
        output.error = None
        log.take(counted(*ends(2)))
        await _written(log)
        assert notes.counts[(LOG_LINES.name,)] == len(output.lines) == 2
        nursery.cancel_scope.cancel()


@trio_test
async def test_disk_that_hangs_is_in_nobodys_way() -> None:
    """While a write hangs, taking never waits, memory is bounded, and the end is not delayed."""
    release = threading.Event()

    class Hanging:
        def append(self, lines: Sequence[bytes]) -> None:
            del lines
            release.wait()

    notes = Notes()
    log = RequestLog(Hanging(), notes, queue_bytes=5000)
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(log.run)
                log.take(counted(*ends(1)))
                await wait_all_tasks_blocked()
                log.take(counted(*ends(100)))
                assert notes.counts[(LOG_DROPPED.name, "queue_full")] > 80
                nursery.cancel_scope.cancel()
    finally:
        release.set()


@trio_test
async def test_last_lines_are_written_at_the_end() -> None:
    """What was taken before the exporter stops is written."""
    output = MemoryOutput()
    log = RequestLog(output, Notes())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        await wait_all_tasks_blocked()
        log.take(counted(*ends(3)))
        nursery.cancel_scope.cancel()
    assert len(output.lines) == 3


async def _written(log: RequestLog) -> None:
    end = time.monotonic() + 60  # a clock that jumps does not wait for the thread that writes
    while log._waiting_bytes:
        assert time.monotonic() < end
        await trio.to_thread.run_sync(time.sleep, 0.01)


@trio_test
async def test_request_has_one_line_through_resends_and_restarts(tmp_path: Path) -> None:
    """A batch that comes again, to this process or the next one, has no second line."""
    batch = pack_batch(TokensGenerated("m", 1), ENDED)
    seen: list[Event | None] = []
    for _ in range(2):
        store = open_store(tmp_path, State, 2.5)
        store.listeners.append(lambda told: seen.extend(told.happened))
        for _ in range(2):
            assert not (await store.take(batch, 1, tuple)).error
        store.close()
    assert seen == [TokensGenerated("m", 1), ENDED]
    store = open_store(tmp_path, State, 2.5)
    store.listeners.append(lambda told: seen.extend(told.happened))
    await store.take(pack_batch(ENDED, *ends(1), first=2), 1, tuple)
    assert seen[2:] == ends(1)
    store.close()


def test_reader_follows_through_rotations(tmp_path: Path) -> None:
    """Each line is read once, in order; what is no line is skipped."""
    path = tmp_path / "log"
    output, reader = FileOutput(path, 4000), LogReader(path)
    read: list[Line] = []
    assert not [*reader.read_older(), *reader.read_new()]
    for event in ends(20):
        line = line_of(event, counted())
        assert line is not None
        output.append([b"no line\n", write_line(line)])
        read += reader.read_new()
    assert [line.request_id for line in read] == [f"r{i}" for i in range(20)]
    with path.open("ab") as file:
        half = write_line(read[0])
        file.write(half[:9])
        file.flush()
        assert not [*reader.read_new()]
        file.write(half[9:])
    assert [*reader.read_new()] == read[:1]
    reader.close()
    again = LogReader(path)
    assert [*again.read_older(), *again.read_new()][-3:] == [*read[-2:], read[0]]
    again.close()
    assert os.path.exists(path)  # noqa: PTH110 - reading moves nothing
