"""The directories for the sockets of the agent's processes."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.agent import notifications
from node.agent.notifications import open_notifications, prepare
from node.errors import StartupError


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for temporary files, short enough for a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        monkeypatch.setattr(tempfile, "tempdir", directory)
        monkeypatch.setattr(notifications, "_FALLBACKS", ())
        yield Path(directory)


def age(directory: Path) -> None:
    """Make a directory look old."""
    old = time.time() - 3600
    os.utime(directory, (old, old))


def test_directory_of_a_killed_agent_is_removed(temporary: Path) -> None:
    """The directory of a killed agent is removed by the next agent."""
    left = temporary / "distributed-llm-agent-left"
    left.mkdir()
    (left / "notify").touch()
    age(left)
    prepare()
    assert list(temporary.iterdir()) == []


def test_directory_of_a_living_agent_is_left_alone(temporary: Path) -> None:
    """Directories in use, and new ones, are kept."""
    made = temporary / "distributed-llm-agent-made"
    made.mkdir()
    with open_notifications() as used:
        age(used.path.parent)
        prepare()
        assert used.path.exists()
        assert made.exists()
    assert list(temporary.iterdir()) == [made]


def test_long_directory_is_passed_over(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    """If `TMPDIR` is too long for a socket, another directory is used."""
    long = temporary / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    short = temporary / "short"
    short.mkdir()
    monkeypatch.setattr(notifications, "_FALLBACKS", (str(short),))
    prepare()
    with open_notifications() as found:
        assert found.path.parent.parent == short
    assert list(long.iterdir()) == []


def test_no_place_for_a_socket_is_one_line(
    monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    """If there is no usable directory, the error names the tried one and the remedy."""
    long = temporary / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(StartupError, match=f"{long}.*TMPDIR"):
        prepare()
