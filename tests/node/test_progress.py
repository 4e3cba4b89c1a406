"""A load reports its progress: by events, and by a bar on a terminal or log lines elsewhere."""

import io
import logging
import sys

import pytest
import trio
from trio.testing import MockClock, trio_test

from node.telemetry.progress import Progress
from shared.events.event import Event
from shared.events.models import ModelLoadProgressed


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@trio_test
async def test_progress_is_told_now_and_then(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A load reports some events, a line every ten seconds, and always its end."""
    del autojump_clock
    caplog.set_level(logging.INFO)
    emitted: list[Event] = []
    progress = Progress("m", "read", emitted.append)
    for done in range(1001):
        progress.note(done, 1000)
        await trio.sleep(0.02)
    assert emitted[0] == ModelLoadProgressed("m", "read", 0, 1000)
    assert emitted[-1] == ModelLoadProgressed("m", "read", 1000, 1000)
    assert 80 < len(emitted) < 110
    assert [record.getMessage() for record in caplog.records] == [
        "loading m: 5 %",
        "loading m: 55 %",
    ]


@trio_test
async def test_quick_load_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A quick load logs no line."""
    caplog.set_level(logging.INFO)
    emitted: list[Event] = []
    progress = Progress("m", "download", emitted.append)
    progress.note(1000, 1000)
    progress.close()
    assert emitted == [ModelLoadProgressed("m", "download", 1000, 1000)]
    assert not caplog.records


@trio_test
async def test_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a long load draws a bar, and moves to the next line when it is done."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress("m", "read", lambda _: None)
    progress.note(0, 1000)
    await trio.sleep(1.2)  # the bar uses the real clock
    progress.note(500, 1000)
    await trio.sleep(0.2)
    progress.note(600, 1000)
    drawn = terminal.getvalue()
    assert "loading m" in drawn
    assert "60%" in drawn
    progress.note(1000, 1000)
    assert terminal.getvalue().endswith("\r")
