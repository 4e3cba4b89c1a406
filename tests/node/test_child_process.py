"""The process of an engine child that cannot be started."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import trio_test

from node.engine.ctransformers.process import open_child

ENOUGH = 64


def open_descriptors() -> set[str]:
    """Return the open descriptors of this process."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@contextmanager
def descriptors_at_most(number: int) -> Iterator[None]:
    """Forbid descriptors of this number and above."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@trio_test
async def test_child_that_cannot_be_started_leaves_no_descriptor() -> None:
    """Wherever a start runs out of descriptors, it closes those that it opened."""
    lowest = next(number for number in range(10**6) if str(number) not in open_descriptors())
    failed = 0
    with trio.fail_after(60):
        for number in range(lowest, lowest + ENOUGH):
            before = open_descriptors()
            try:
                with descriptors_at_most(number):
                    async with open_child():
                        pass
            except (OSError, ExceptionGroup):
                failed += 1
            else:
                break
            assert open_descriptors() == before
        else:
            pytest.fail("no number of descriptors was enough")
    assert failed > 6
