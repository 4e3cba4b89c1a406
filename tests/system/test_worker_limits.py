"""The real worker within its limits: of memory, and of the directory of its tensors."""

from pathlib import Path

import psutil
import pytest
import trio
from trio.testing import trio_test

from node.pipeline.cache import make_room
from node.pipeline.worker import HOST, Worker, WorkerOptions, open_worker
from tests.patience import patient
from tests.real_model import real_model
from tests.split import WORKER, WORKER_BYTES, over, run_llama

TOO_LITTLE_BYTES = 32 * 2**20
"""Less than the weights of the real model by far, with what a worker may take besides."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not WORKER.exists(), reason="not compiled: run `just llama-server`"),
]


def load(worker: Worker, log: Path) -> None:
    """Let a llama-server load the real model into a worker."""
    with run_llama(real_model(), log, *over([f"{HOST}:{worker.port}"], layers=18)) as llama:
        llama.generate(1)


@trio_test
async def test_worker_refuses_more_than_was_claimed(tmp_path: Path) -> None:
    """The other side's load fails with the reason; the worker stays, without the memory."""
    options = WorkerOptions(WORKER, 1, TOO_LITTLE_BYTES, cache=None, cpu_only=True)
    with trio.fail_after(patient(120)):
        async with open_worker(options) as worker:
            with pytest.raises(AssertionError, match="unable to allocate RPC0"):
                await trio.to_thread.run_sync(load, worker, tmp_path / "llama.log")
            assert psutil.pid_exists(worker.pid)
            assert worker.held_bytes() < TOO_LITTLE_BYTES


@trio_test
async def test_tensors_are_kept_within_the_limit(tmp_path: Path) -> None:
    """A load adds no more than was claimed, a second one nothing; room can be made again."""
    cache = tmp_path / "tensors"
    assert make_room(cache, WORKER_BYTES, WORKER_BYTES)
    options = WorkerOptions(WORKER, 1, WORKER_BYTES, cache, cpu_only=True)
    with trio.fail_after(patient(240)):
        sizes = []
        for number in range(2):
            async with open_worker(options) as worker:
                await trio.to_thread.run_sync(load, worker, tmp_path / f"{number}.log")
            sizes.append(size_of(cache))
    assert 0 < sizes[0] <= WORKER_BYTES
    assert sizes[1] == sizes[0]
    assert make_room(cache, WORKER_BYTES, WORKER_BYTES)
    assert not size_of(cache)


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
