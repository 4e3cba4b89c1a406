"""Replaced files are noticed, no matter when and how they are replaced."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import trio_test

from shared.runtime import follow
from shared.runtime.follow import FollowedFiles

LIMIT_SECONDS = 30.0


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the polling interval."""
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)


def rewrite(path: Path) -> None:
    path.write_text("another text")


def replace(path: Path) -> None:
    """Replace a file as an editor does."""
    new = path.with_suffix(".new")
    new.write_text("same")
    new.rename(path)


def remove(path: Path) -> None:
    path.unlink()


async def wait_noticed(files: FollowedFiles, change: Callable[[], None] = lambda: None) -> None:
    """Follow the files, change them, and wait for one notification."""
    noticed = trio.Event()
    with trio.fail_after(LIMIT_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(files.run, noticed.set)
            change()
            await noticed.wait()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("change", [rewrite, replace, remove])
@trio_test
async def test_change_is_noticed(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """The follower notices a change to any of the files, made by any tool."""
    followed, other = tmp_path / "followed", tmp_path / "other"
    for path in (followed, other):
        path.write_text("same")
    await wait_noticed(FollowedFiles([other, followed]), lambda: change(followed))


@trio_test
async def test_file_that_appears_is_noticed(tmp_path: Path) -> None:
    """A file that is missing at first is noticed when it appears."""
    path = tmp_path / "late"
    await wait_noticed(FollowedFiles([path]), lambda: rewrite(path))


@trio_test
async def test_change_before_the_first_look_is_noticed(tmp_path: Path) -> None:
    """A change between the first reading and the start of the follower is noticed."""
    path = tmp_path / "key"
    path.write_text("same")
    files = FollowedFiles([path])
    assert path.read_text() == "same"
    replace(path)
    await wait_noticed(files)


@trio_test
async def test_file_that_stays_is_not_reported(tmp_path: Path) -> None:
    """Unchanged files are not read again."""
    path = tmp_path / "key"
    path.write_text("same")
    calls: list[int] = []
    with trio.move_on_after(0.3):
        await FollowedFiles([path]).run(lambda: calls.append(1))
    assert not calls
