"""Faults that repeat are summed up."""

import logging

import pytest

from shared.repeats import SUM_SECONDS, Repeats

_log = logging.getLogger("test")


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_fault_is_logged_once_then_summed_up(caplog: pytest.LogCaptureFixture) -> None:
    """The first line comes at once, the next a minute later with the number between them."""
    clock = Clock()
    repeats = Repeats(_log, clock)
    for second in range(int(SUM_SECONDS) + 1):
        clock.now = second
        repeats.note("no connection with %s", "a")
    assert [record.message for record in caplog.records] == [
        "no connection with a",
        "no connection with a (60 times since the last such line)",
    ]


def test_kinds_are_counted_apart(caplog: pytest.LogCaptureFixture) -> None:
    """One fault does not hide another that has the same text."""
    repeats = Repeats(_log, Clock())
    for peer in ("a", "b", "a"):
        repeats.note("%s does not answer", peer, kind=peer)
    assert [record.message for record in caplog.records] == [
        "a does not answer",
        "b does not answer",
    ]


def test_fault_that_is_over_is_logged_when_it_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    """After a fault was settled it is news again."""
    repeats = Repeats(_log, Clock())
    repeats.note("down")
    repeats.note("down")
    assert (repeats.settle("down"), repeats.settle("down")) == (1, 0)
    repeats.note("down")
    assert [record.message for record in caplog.records] == ["down", "down"]


def test_kinds_are_remembered_within_bounds() -> None:
    """Clients that bring about ever new kinds of fault take no memory for it."""
    repeats = Repeats(_log, Clock())
    for number in range(10_000):
        repeats.note("odd", kind=str(number), level=logging.DEBUG)
    assert len(repeats._faults) <= 256
