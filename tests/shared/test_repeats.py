"""Repeated faults are summed up in the log."""

import logging

import pytest

from shared.repeats import SUM_SECONDS, Repeats

_log = logging.getLogger("test")


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_fault_is_logged_once_then_summed_up(caplog: pytest.LogCaptureFixture) -> None:
    """The first fault is logged at once; a minute later, one line has the number of repeats."""
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
    """Each kind of fault is counted separately."""
    repeats = Repeats(_log, Clock())
    for peer in ("a", "b", "a"):
        repeats.note("%s does not answer", peer, kind=peer)
    assert [record.message for record in caplog.records] == [
        "a does not answer",
        "b does not answer",
    ]


def test_fault_that_is_over_is_logged_when_it_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    """A fault that comes back after it was resolved is logged at once."""
    repeats = Repeats(_log, Clock())
    repeats.note("down")
    repeats.note("down")
    assert (repeats.settle("down"), repeats.settle("down")) == (1, 0)
    repeats.note("down")
    assert [record.message for record in caplog.records] == ["down", "down"]


def test_kinds_are_remembered_within_bounds() -> None:
    """Memory stays bounded when clients cause ever new kinds of fault."""
    repeats = Repeats(_log, Clock())
    for number in range(10_000):
        repeats.note("odd", kind=str(number), level=logging.DEBUG)
    assert len(repeats._faults) <= 256
