"""The metrics of the state directory's disk."""

from pathlib import Path

import trio

from exporter.journal.disk import watch_disk
from exporter.metrics.catalogue.exporter import STATE_DISK
from exporter.metrics.cut import take_cut
from exporter.metrics.state import State


def test_space_of_the_disk_is_shown(tmp_path: Path) -> None:
    """Free and total bytes are shown, and disappear with the directory."""
    state = State()
    trio.run(_watch_until, tmp_path, state, True)
    shown = take_cut(state).numbers[STATE_DISK]
    assert 0 < shown[("free",)] < shown[("total",)]
    trio.run(_watch_until, tmp_path / "gone", state, False)
    assert take_cut(state).numbers[STATE_DISK] == {}


async def _watch_until(directory: Path, state: State, has_space: bool) -> None:  # noqa: FBT001
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_disk, directory, state.storage)
            while bool(state.storage.disk_total_bytes) != has_space:  # noqa: ASYNC110
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
