"""Errors in callbacks of nng's threads are contained."""

import functools

import trio
from trio.testing import trio_test

from node.mesh.transport import open_transport
from shared.runtime.guard import Guard


@trio_test
async def test_callback_that_raises_is_contained() -> None:
    """A callback that raises is counted; event loop and sockets go on."""
    failed: list[str] = []
    guard: Guard[str] = Guard(failed.append)
    called = trio.Event()

    def broken(address: str) -> None:
        called.set()
        raise ValueError(address)

    with (
        trio.fail_after(30),
        open_transport("127.0.0.1", 0, None, 2) as one,
        open_transport("127.0.0.1", 0, None, 2) as another,
    ):
        one.contain = functools.partial(guard.contain, "mesh_rounds")
        one.on_connect = broken
        one.dial(another.address)
        await called.wait()
        await trio.lowlevel.checkpoint()
        assert failed == ["mesh_rounds"]
        assert one.connections == 1
