"""The store shows what was emitted, through any death of node or exporter."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from exporter.journal import store as store_module
from exporter.journal.changes import BATCH
from exporter.journal.journal import JournalError
from exporter.journal.opening import open_store
from exporter.journal.records import LOG_HEADER
from exporter.journal.store import Store
from exporter.metrics.catalogue.exporter import DURABLE, QUARANTINED, RECOVERED_EVENTS
from exporter.metrics.catalogue.family import Family
from exporter.metrics.catalogue.health import HEALTH_CHECKS
from exporter.metrics.catalogue.models import LAYERS_ALLOCATED
from exporter.metrics.catalogue.node import NODE_UP
from exporter.metrics.catalogue.requests import TOKENS_GENERATED
from exporter.metrics.catalogue.system import MEMORY
from exporter.metrics.catalogue.telemetry import DUPLICATES, EMITTED, EVENTS, LOST, REJECTED
from exporter.metrics.cut import take_cut
from exporter.metrics.state import State
from exporter.web.exposition import Wanted, render
from node.telemetry.outbox import Outbox
from shared import wire
from shared.events.event import Event
from shared.events.models import ModelDescribed
from shared.events.requests import TokensGenerated
from shared.events.system import SystemSampled

MODEL = "m"
TIMEOUT_SECONDS = 2.5


def sampled() -> SystemSampled:
    """A level."""
    return SystemSampled(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)


def opened(directory: Path, rotate_bytes: int = store_module.ROTATE_BYTES) -> Store:
    """Open a store as the exporter does."""
    return open_store(directory, State, TIMEOUT_SECONDS, rotate_bytes)


def killed(store: Store) -> None:
    """Close a store's files as the kernel does for a killed process."""
    if store._journal is not None:
        store._journal.close()


def number(store: Store, family: Family, *labels: str) -> float | None:
    """Return a number as a scrape would show it."""
    return take_cut(store.state).numbers[family].get(labels)


class Sender:
    """A node: its outbox, sent one batch of one kind of event at a time."""

    def __init__(self, name: str = "n1", session: str = "s1", pipe: int = 1) -> None:
        self.outbox = Outbox(name, session, 0.0)
        self.pipe = pipe

    async def send(
        self, store: Store, *happened: Event, live: tuple[int, ...] = (), goodbye: bool = False
    ) -> wire.Reply:
        """Emit, and send one batch whose reply arrives."""
        for event in happened:
            self.outbox.emit(event)
        message = self.outbox.next_batch(1.0, goodbye=goodbye)
        reply = await store.take(message, self.pipe, lambda: live)
        if reply.error != "conflict":
            self.outbox.acknowledge(rejected=bool(reply.error))
        return reply


def test_counts_outlive_a_kill(tmp_path: Path) -> None:
    """Counters and levels are the same after a kill."""

    async def scenario() -> None:
        store = opened(tmp_path)
        reply = await Sender().send(store, TokensGenerated(MODEL, 7), sampled())
        assert reply.durable
        await store.tick(0.0)
        before = render(take_cut(store.state), Wanted()).body
        killed(store)
        again = opened(tmp_path)
        assert number(again, TOKENS_GENERATED, "n1", MODEL) == 7
        assert number(again, MEMORY, "n1", "rss") == 2
        assert number(again, NODE_UP, "n1") == 1
        assert number(again, RECOVERED_EVENTS) == 2
        after = render(take_cut(again.state), Wanted()).body
        assert _but_the_journals(before) == _but_the_journals(after)
        again.close()

    trio.run(scenario)


def _but_the_journals(exposition: bytes) -> list[bytes]:
    own = (b"_exporter_journal_bytes ", b"_exporter_recovered_events_total ")
    return [line for line in exposition.splitlines() if not any(name in line for name in own)]


def test_own_metrics_outlive_a_kill(tmp_path: Path) -> None:
    """The exporter's own counters do not decrease after a kill."""

    async def scenario() -> None:
        store = opened(tmp_path)
        for _ in range(3):
            store.note(HEALTH_CHECKS, ("render", "ok"), 1)
            await store.tick(0.0)
        killed(store)
        again = opened(tmp_path)
        assert number(again, HEALTH_CHECKS, "render", "ok") == 3
        again.close()

    trio.run(scenario)


def test_gone_node_stays_gone_over_a_restart(tmp_path: Path) -> None:
    """A node that was gone before a restart of the exporter stays gone."""

    async def scenario() -> None:
        store = opened(tmp_path)
        await Sender().send(store, sampled())
        await store.tick(trio.current_time() + TIMEOUT_SECONDS + 1)
        assert number(store, NODE_UP, "n1") == 0
        killed(store)
        again = opened(tmp_path)
        assert number(again, NODE_UP, "n1") == 0
        assert number(again, MEMORY, "n1", "rss") is None
        again.close()

    trio.run(scenario)


def test_recovered_node_has_its_time_to_speak(tmp_path: Path) -> None:
    """After a restart a node counts as up until it has been silent for the timeout."""

    async def scenario() -> None:
        store = opened(tmp_path)
        await Sender().send(store, sampled())
        killed(store)
        again = opened(tmp_path)
        now = trio.current_time()
        await again.tick(now)
        assert number(again, NODE_UP, "n1") == 1
        await again.tick(now + TIMEOUT_SECONDS + 0.1)
        assert number(again, NODE_UP, "n1") == 0
        again.close()

    trio.run(scenario)


def test_levels_are_asked_for_by_each_new_exporter(tmp_path: Path) -> None:
    """A new exporter requests the levels of a node once."""

    async def scenario() -> None:
        sender = Sender()
        store = opened(tmp_path)
        assert (await sender.send(store)).levels_wanted
        assert not (await sender.send(store)).levels_wanted
        killed(store)
        again = opened(tmp_path)
        assert (await sender.send(again)).levels_wanted
        assert not (await sender.send(again)).levels_wanted
        again.close()

    trio.run(scenario)


def test_two_live_nodes_of_one_name_are_not_mixed(tmp_path: Path) -> None:
    """A second live node with the same name waits unharmed until the first is gone."""

    async def scenario() -> None:
        store = opened(tmp_path)
        first, second = Sender(session="a", pipe=1), Sender(session="b", pipe=2)
        await first.send(store, TokensGenerated(MODEL, 1), live=(1, 2))
        refused = await second.send(store, TokensGenerated(MODEL, 100), live=(1, 2))
        assert refused.error == "conflict"
        await first.send(store, TokensGenerated(MODEL, 1), live=(1, 2))
        await store.tick(0.0)
        assert number(store, TOKENS_GENERATED, "n1", MODEL) == 2
        assert number(store, REJECTED, "conflict") == 1
        taken = await second.send(store, live=(2,))  # the first one's connection is closed
        assert taken.error == ""
        assert number(store, TOKENS_GENERATED, "n1", MODEL) == 102
        assert number(store, LOST, "n1") == 0
        store.close()

    trio.run(scenario)


def test_rotation_keeps_everything_and_bounds_the_log(tmp_path: Path) -> None:
    """A long log is replaced by a snapshot, and a restart shows the same."""

    async def scenario() -> None:
        store = opened(tmp_path, rotate_bytes=1000)
        sender = Sender()
        await sender.send(store, ModelDescribed(MODEL, "llama", "Q8_0", "e", 10, 2))
        for _ in range(30):
            await sender.send(store, TokensGenerated(MODEL, 1))
        assert store.state.storage.journal_bytes > 1000
        await store._rotate()
        assert store.state.storage.journal_bytes < 1000
        await sender.send(store, TokensGenerated(MODEL, 1))
        assert len(list(tmp_path.glob("journal-*"))) == 1
        killed(store)
        again = opened(tmp_path)
        assert number(again, TOKENS_GENERATED, "n1", MODEL) == 31
        assert number(again, LAYERS_ALLOCATED, "n1", MODEL) == 2
        assert number(again, DUPLICATES, "n1") == 0
        again.close()

    trio.run(scenario)


@contextlib.contextmanager
def _small_disk(directory: Path, options: str = "size=64k") -> Iterator[Path]:
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="mounting a tmpfs needs root")


@needs_root
def test_full_disk_costs_durability_and_nothing_else(tmp_path: Path) -> None:
    """With a full disk counting continues without durability, until there is room again."""

    async def scenario(disk: Path) -> None:
        store = opened(disk / "state")
        sender = Sender()
        await sender.send(store, TokensGenerated(MODEL, 1))
        with contextlib.suppress(OSError):
            (disk / "ballast").write_bytes(b"x" * 2**20)
        while store.state.storage.durable:  # the rest of the last page
            await sender.send(store, TokensGenerated(MODEL, 1))
        assert "No space left" in store.state.storage.failure
        reply = await sender.send(store, TokensGenerated(MODEL, 1))
        assert not reply.durable
        counted = number(store, TOKENS_GENERATED, "n1", MODEL)
        with pytest.raises(JournalError):
            await store._rotate()
        (disk / "ballast").unlink()
        await store._rotate()
        assert (await sender.send(store, TokensGenerated(MODEL, 1))).durable
        killed(store)
        again = opened(disk / "state")
        assert number(again, TOKENS_GENERATED, "n1", MODEL) == (counted or 0) + 1
        again.close()

    with _small_disk(tmp_path / "disk") as disk:
        trio.run(scenario, disk)


def test_logs_at_their_limit_are_replaced(tmp_path: Path) -> None:
    """Logs that are at their limit are replaced by a snapshot."""

    async def scenario() -> None:
        store = opened(tmp_path)
        assert store._journal is not None
        sender = Sender()
        await sender.send(store, TokensGenerated(MODEL, 1))
        store._journal._log.limit_bytes = store._journal.size_bytes + 50
        store._journal._log.set_limit()
        for _ in range(3):
            await sender.send(store, TokensGenerated(MODEL, 1))
        assert "limit" in store.state.storage.failure
        await store._rotate()
        store._journal._log.limit_bytes = 2**20
        store._journal._log.set_limit()
        assert (await sender.send(store, TokensGenerated(MODEL, 1))).durable
        killed(store)
        again = opened(tmp_path)
        assert number(again, TOKENS_GENERATED, "n1", MODEL) == 5
        again.close()

    trio.run(scenario)


@needs_root
def test_read_only_directory_costs_durability_at_start(tmp_path: Path) -> None:
    """An exporter starts on a directory that it cannot write, and counts."""

    async def scenario(disk: Path) -> None:
        store = opened(disk / "state")
        reply = await Sender().send(store, TokensGenerated(MODEL, 1))
        assert not reply.durable
        assert number(store, DURABLE) == 0
        assert number(store, TOKENS_GENERATED, "n1", MODEL) == 1
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        await store._rotate()
        assert number(store, DURABLE) == 1
        store.close()

    with _small_disk(tmp_path / "disk", "size=1m,ro") as disk:
        trio.run(scenario, disk)


class _StuckFile:
    """A full pipe in place of a log: a write waits, as on a stuck disk."""

    def __init__(self, store: Store) -> None:
        log = store._journal._log.writer  # type: ignore[union-attr]
        assert log is not None
        self._reading, writing = os.pipe()
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 4096)
        os.set_blocking(writing, True)
        os.dup2(writing, log._descriptor)
        os.close(writing)

    def answer(self) -> None:
        """Let the waiting write continue."""
        os.read(self._reading, 2**16)

    def close(self) -> None:
        os.close(self._reading)


@needs_root
def test_counts_on_a_read_only_disk_are_shown(tmp_path: Path) -> None:
    """On a read-only disk the old counts are shown, and new ones are not durable."""

    async def scenario(disk: Path) -> None:
        store = opened(disk / "state")
        sender = Sender()
        await sender.send(store, TokensGenerated(MODEL, 5))
        killed(store)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        again = opened(disk / "state")
        assert number(again, TOKENS_GENERATED, "n1", MODEL) == 5
        assert number(again, DURABLE) == 0
        await sender.send(again, TokensGenerated(MODEL, 1))
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        await again._rotate()
        assert number(again, DURABLE) == 1
        killed(again)
        last = opened(disk / "state")
        assert number(last, TOKENS_GENERATED, "n1", MODEL) == 6
        last.close()

    with _small_disk(tmp_path / "disk", "size=1m") as disk:
        trio.run(scenario, disk)


def test_counts_that_could_not_be_read_are_kept_aside(tmp_path: Path) -> None:
    """A directory that returns after the start is quarantined, not emptied."""

    async def scenario() -> None:
        state, away = tmp_path / "state", tmp_path / "away"
        store = opened(state)
        await Sender().send(store, TokensGenerated(MODEL, 500))
        killed(store)
        state.rename(away)
        state.write_text("no directory")
        late = opened(state)
        assert number(late, DURABLE) == 0
        state.unlink()
        away.rename(state)
        await late._rotate()
        assert number(late, DURABLE) == 1
        assert list((state / "quarantine").glob("*journal-1.log*"))
        killed(late)

    trio.run(scenario)


def test_durable_is_not_said_before_the_snapshot_is_there(tmp_path: Path) -> None:
    """After a hanging record, the counts are not durable until a snapshot is written."""

    async def scenario() -> None:
        store = opened(tmp_path)
        sender = Sender()
        await sender.send(store, TokensGenerated(MODEL, 1))
        stuck = _StuckFile(store)
        await sender.send(store, TokensGenerated(MODEL, 1))
        await sender.send(store, TokensGenerated(MODEL, 1))
        stuck.answer()
        assert store._journal is not None
        await trio.sleep(0.5)  # the abandoned record is written after all
        store._journal.begin_rotation()
        store._failure = ""
        store._note_storage()
        assert number(store, DURABLE) == 0
        await store._rotate()
        assert number(store, DURABLE) == 1
        killed(store)
        stuck.close()
        again = opened(tmp_path)
        assert number(again, TOKENS_GENERATED, "n1", MODEL) == 3
        again.close()

    trio.run(scenario)


def test_pause_of_the_exporter_is_no_nodes_silence(tmp_path: Path) -> None:
    """A pause of the exporter does not count as silence of its nodes."""

    async def scenario() -> None:
        store = opened(tmp_path)
        await Sender().send(store, sampled())
        store._ingest.excuse(10.0, trio.current_time() + 10.0)
        await store.tick(trio.current_time() + 10.0)
        assert number(store, NODE_UP, "n1") == 1
        store.close()

    trio.run(scenario)


def test_pause_excuses_no_silence_after_it(tmp_path: Path) -> None:
    """A node that spoke after the pause and then falls silent is gone after the timeout."""

    async def scenario() -> None:
        store = opened(tmp_path)
        await Sender().send(store, sampled())
        heard = trio.current_time()
        store._ingest.excuse(60.0, heard)
        await store.tick(heard + TIMEOUT_SECONDS + 0.1)
        assert number(store, NODE_UP, "n1") == 0
        store.close()

    trio.run(scenario)


def test_directory_with_counts_that_comes_back_is_kept_aside(tmp_path: Path) -> None:
    """Counts on a disk that is mounted after the start are quarantined, not deleted."""

    async def scenario() -> None:
        directory = tmp_path / "state"
        first = opened(directory)
        await Sender().send(first, TokensGenerated(MODEL, 5))
        killed(first)
        directory.rename(tmp_path / "disk")
        store = opened(directory)
        await Sender(session="s2").send(store, TokensGenerated(MODEL, 1))
        directory.rename(tmp_path / "covered")
        (tmp_path / "disk").rename(directory)
        store._fail(JournalError("it was deleted or replaced"))
        await store._rotate()
        assert number(store, DURABLE) == 1
        [kept] = (directory / "quarantine").iterdir()
        assert kept.name.endswith("journal-1.log")
        assert kept.stat().st_size > LOG_HEADER.size
        await store.tick(trio.current_time())
        assert number(store, QUARANTINED, "log") == 1
        store.close()

    trio.run(scenario)


def test_disk_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    """A hanging disk delays one batch by half a second; counting continues without durability."""

    async def scenario() -> None:
        store = opened(tmp_path)
        sender = Sender()
        assert (await sender.send(store, TokensGenerated(MODEL, 1))).durable
        stuck = _StuckFile(store)
        with trio.fail_after(20):
            assert not (await sender.send(store, TokensGenerated(MODEL, 1))).durable
            assert "did not answer" in store.state.storage.failure
            await sender.send(store, TokensGenerated(MODEL, 1))
            with pytest.raises(JournalError, match="still"):
                await store._rotate()
            stuck.answer()
            while not store.state.storage.durable:
                with contextlib.suppress(JournalError):
                    await store._rotate()
        await sender.send(store, TokensGenerated(MODEL, 1))
        killed(store)
        stuck.close()
        again = opened(tmp_path)
        assert number(again, TOKENS_GENERATED, "n1", MODEL) == 4
        again.close()

    trio.run(scenario)


OPERATIONS = (
    "emit",
    "send",
    "lose request",
    "lose reply",
    "kill before apply",
    "kill",
    "rotate",
    "kill in rotation",
    "restart node",
    "kill node",
)


class World:
    """Nodes and an exporter that die in any order, beside a simple model of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = opened(directory)
        self.session = 0
        self.sender = Sender(session="0", pipe=0)
        self.delivered = 0
        self.waiting = 0
        """Emitted events that may not have been counted yet."""
        self.shown = 0.0

    async def do(self, operation: str) -> None:
        """Take one step and check the exposition."""
        await getattr(self, operation.replace(" ", "_"))()
        shown = number(self.store, TOKENS_GENERATED, "n1", MODEL) or 0
        assert shown >= self.shown
        self.shown = shown

    async def emit(self) -> None:
        self.sender.outbox.emit(TokensGenerated(MODEL, 1))
        self.waiting += 1

    async def send(self) -> None:
        await self.sender.send(self.store)
        self._taken()

    async def lose_request(self) -> None:
        self._message()

    async def lose_reply(self) -> None:
        await self.store.take(self._message(), self.sender.pipe, tuple)

    async def kill_before_apply(self) -> None:
        await self.store._keep(BATCH, time.time(), self._message())
        await self.kill()

    async def kill(self) -> None:
        killed(self.store)
        self.store = opened(self.directory)

    async def rotate(self) -> None:
        await self.store._rotate()

    async def kill_in_rotation(self) -> None:
        assert self.store._journal is not None
        self.store._journal.begin_rotation()
        await self.store.tick(0.0)
        await self.lose_reply()
        await self.kill()

    async def restart_node(self) -> None:
        """End the node cleanly: it sends the rest, then the goodbye."""
        while not self.sender.outbox.empty:
            await self.sender.send(self.store)
        await self.sender.send(self.store, goodbye=True)
        self._taken()
        self._new_node()

    async def kill_node(self) -> None:
        """Kill the node, which loses what it had not sent."""
        taken = number(self.store, TOKENS_GENERATED, "n1", MODEL) or 0
        self.waiting = 0
        self.delivered = int(taken)
        self._new_node()

    def _message(self) -> bytes:
        return self.sender.outbox.next_batch(1.0)

    def _taken(self) -> None:
        if self.sender.outbox.empty:
            self.delivered += self.waiting
            self.waiting = 0

    def _new_node(self) -> None:
        self.session += 1
        self.sender = Sender(session=str(self.session), pipe=self.session)

    async def settle(self) -> None:
        """Send the rest and compare the exporter with the truth."""
        while not self.sender.outbox.empty:
            await self.send()
        await self.send()
        assert (number(self.store, TOKENS_GENERATED, "n1", MODEL) or 0) == self.delivered
        applied = number(self.store, EVENTS, "n1", "TokensGenerated") or 0
        assert number(self.store, EMITTED, "n1") == applied == self.delivered
        assert number(self.store, LOST, "n1") == 0


def _live_through(operations: list[str]) -> None:
    async def scenario() -> None:
        world = World(directory)
        for operation in operations:
            await world.do(operation)
        await world.settle()
        world.store.close()

    directory = Path(tempfile.mkdtemp(prefix="store-"))
    try:
        trio.run(scenario)
    finally:
        shutil.rmtree(directory)


@given(st.lists(st.sampled_from(OPERATIONS), max_size=25))
def test_equation_holds_through_any_interleaving(operations: list[str]) -> None:
    """The account adds up and no counter decreases, in any order of deaths."""
    _live_through(operations)
