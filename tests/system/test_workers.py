"""A split over the workers of two real nodes: the same text, and an end where one is lost."""

import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest
import trio
from trio.testing import trio_test

from node.pipeline.build import identify
from node.pipeline.remote import Tunnels
from node.pipeline.tunnel import Loss, Tunnel, TunnelRefusedError
from node.routing.signature import Signer
from node.routing.trust import PeerTrust
from tests.llama_servers import COMPILED
from tests.patience import patient
from tests.processes import Pair, Running, name_of
from tests.real_model import real_model
from tests.split import WORKER, new_claim, over, run_llama

SECRET = "the secret of the mesh that a test made"
TOKENS = 24
LAYERS = 18
ABORTED = -signal.SIGABRT
"""How llama-server ends when it loses a worker; it must not wait for one."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not WORKER.exists(), reason="not compiled: run `just llama-server`"),
]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Running]]:
    """Two nodes that lend workers."""
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                Pair(tmp_path / name).node(
                    f"--node-id={name}",
                    f"--llama-server={COMPILED}",
                    f"--mesh-secret-file={tmp_path / 'secret'}",
                )
            )
            for name in ("n0", "n1")
        ]


def worker_of(node: Running) -> psutil.Process:
    """Return the only worker of a node."""
    children = psutil.Process(node.process.pid).children()
    (worker,) = (child for child in children if name_of(child) == WORKER.name)
    return worker


@asynccontextmanager
async def tunnels_to(nodes: list[Running]) -> AsyncIterator[list[Tunnel]]:
    """Claim a worker of each node; they identify their builds when they start."""
    build = (await identify(COMPILED)).name
    dialer = Tunnels(Signer((SECRET,)), PeerTrust())
    async with (
        _lent(dialer, nodes[0].url, "n0", build) as first,
        _lent(dialer, nodes[1].url, "n1", build) as second,
    ):
        yield [first, second]


@asynccontextmanager
async def _lent(dialer: Tunnels, url: str, node_id: str, build: str) -> AsyncIterator[Tunnel]:
    while True:
        async with AsyncExitStack() as stack:
            try:
                opened = dialer.open(url, new_claim(node_id, build))
                tunnel = await stack.enter_async_context(opened)
            except TunnelRefusedError as error:
                if error.reason != "absent":
                    raise
                await trio.sleep(0.1)
                continue
            yield tunnel
            return


@trio_test
async def test_split_gives_the_same_text(nodes: list[Running], tmp_path: Path) -> None:
    """Two workers behind tunnels and no worker at all give the same greedy text."""
    with trio.fail_after(patient(300)):
        # A worker does not reorder weights for the CPU, which changes the last bits of sums.
        with run_llama(real_model(), tmp_path / "whole.log", "--no-repack") as whole:
            alone, _ = await trio.to_thread.run_sync(whole.generate, TOKENS)
        async with tunnels_to(nodes) as tunnels:
            flags = over([tunnel.endpoint for tunnel in tunnels], LAYERS)
            opened = run_llama(real_model(), tmp_path / "split.log", *flags)
            split = await trio.to_thread.run_sync(opened.__enter__)
            try:
                together, _ = await trio.to_thread.run_sync(split.generate, TOKENS)
            finally:
                opened.__exit__(None, None, None)
            assert together == alone
            assert all(tunnel.take_traffic().sent_bytes for tunnel in tunnels)


def kill_worker(node: Running) -> None:
    worker_of(node).kill()


def stop_worker(node: Running) -> None:
    worker_of(node).suspend()


def kill_node(node: Running) -> None:
    node.process.kill()


def freeze_node(node: Running) -> None:
    node.process.send_signal(signal.SIGSTOP)


def drain_node(node: Running) -> None:
    node.process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("harm", "loss"),
    [
        (kill_worker, "ended"),
        (stop_worker, "frozen"),
        (kill_node, "cut"),
        (freeze_node, "frozen"),
        (drain_node, "draining"),
    ],
)
@trio_test
async def test_lost_worker_ends_llama_server(
    nodes: list[Running], tmp_path: Path, harm: Callable[[Running], None], loss: Loss
) -> None:
    """Whatever is lost in the middle of an answer, llama-server ends, and so do the workers."""
    with trio.fail_after(patient(300)):
        async with tunnels_to(nodes) as tunnels:
            workers = [worker_of(node) for node in nodes]
            flags = over([tunnel.endpoint for tunnel in tunnels], LAYERS)
            opened = run_llama(real_model(), tmp_path / "split.log", *flags)
            split = await trio.to_thread.run_sync(opened.__enter__)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_generate_until_lost, split.generate)
                    tunnels[1].take_traffic()
                    while not tunnels[1].take_traffic().received_bytes:  # noqa: ASYNC110
                        await trio.sleep(0.01)
                    harm(nodes[1])
                    assert await tunnels[1].wait_lost() == loss
                    code = await trio.to_thread.run_sync(split.process.wait, patient(30))
                    assert code == ABORTED
            finally:
                opened.__exit__(None, None, None)
        nodes[1].process.send_signal(signal.SIGCONT)
        for worker in workers:
            await trio.to_thread.run_sync(worker.wait, patient(30))


async def _generate_until_lost(generate: Callable[[int], object]) -> None:
    """Ask for more tokens than there is time for; the answer breaks off."""
    with pytest.raises(httpx.HTTPError):
        await trio.to_thread.run_sync(generate, 400)
