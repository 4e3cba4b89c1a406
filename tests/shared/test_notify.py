"""Notifications of readiness and life never wait for the listener."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, trio_test, wait_all_tasks_blocked

from shared.runtime.notify import announce, notify, ping_watchdog

Receiver = socket.socket


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """Listen as systemd does, without blocking the test."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield receiver


def fill(receiver: Receiver) -> int:
    """Send until the queue is full; return how many messages fit."""
    del receiver  # does not read
    count = 0
    while notify("WATCHDOG=1"):
        count += 1
    return count


def test_assignments_are_one_message(receiver: Receiver) -> None:
    """The fields of one notification arrive in one message."""
    assert notify("READY=1", "X_URL=http://here")
    assert receiver.recv(100) == b"READY=1\nX_URL=http://here"


def test_listener_that_does_not_read_stops_nobody(receiver: Receiver) -> None:
    """A full queue drops the message at once and accepts messages again once it is read."""
    assert fill(receiver) > 0
    assert not notify("WATCHDOG=1")
    receiver.recv(100)
    assert notify("WATCHDOG=1")


@trio_test
async def test_readiness_arrives_however_late_it_is_read(
    receiver: Receiver, autojump_clock: MockClock
) -> None:
    """A listener that was stopped is notified of readiness when it resumes."""
    del autojump_clock
    stale = fill(receiver)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(announce, "READY=1")
        await wait_all_tasks_blocked()
        heard = [receiver.recv(100) for _ in range(stale)]
    assert b"READY=1" not in heard
    assert receiver.recv(100) == b"READY=1"


def test_abstract_address_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that begins with @ is an abstract socket of Linux."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as receiver:
        receiver.bind(f"\0test-notify-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@test-notify-{os.getpid()}")
        notify("READY=1")
        assert receiver.recv(100) == b"READY=1"


@pytest.mark.parametrize("path", ["", "/nowhere/notify", "/" + "long" * 100])
def test_nobody_to_tell_is_fine(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing or unreachable listener is ignored."""
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    assert notify("READY=1")


@trio_test
async def test_watchdog_is_pinged_as_often_as_it_wants(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The watchdog is pinged twice per interval, and not at all without a watchdog."""
    del autojump_clock
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    await ping_watchdog()
    with pytest.raises(BlockingIOError):
        receiver.recv(100)
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with trio.move_on_after(2.5):
        await ping_watchdog()
    assert [receiver.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    with pytest.raises(BlockingIOError):
        receiver.recv(100)
