"""Measures a split through the tunnels of real nodes against the same split without tunnels.

Each split has two workers of one thread each, and all answer in turn. The bench is the coordinator:
its end of the tunnels runs here, the other ends in the nodes.
"""

import random
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
import trio
import trustme

from node.pipeline.build import identify
from node.pipeline.remote import Tunnels
from node.pipeline.tunnel import Tunnel
from node.routing.signature import Signer
from node.routing.trust import PeerTrust
from tests.bench.table import Row
from tests.llama_servers import COMPILED
from tests.processes import Pair, Running
from tests.real_model import real_model
from tests.split import WORKER, Split, new_claim, over, run_llama, run_worker

_LAYERS: Final = 18
_TOKENS: Final = 48
_ROUNDS: Final = 8
_LOOK_SECONDS: Final = 6.0
"""A node identifies its build when it starts."""


@dataclass
class _Case:
    """One split and what was measured of it."""

    split: Split
    relays: list[psutil.Process]
    """The processes that pass its bytes on."""
    tunnels: list[Tunnel] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    seconds: float = 0.0
    """CPU of these processes while it answered."""
    sent_bytes: int = 0


def measure() -> list[Row]:
    """Compare tokens per second, plain and over TLS, and count the CPU of the relays."""
    if not WORKER.exists():
        return [Row("tunnel", "not compiled: just llama-server", "", "")]
    return trio.run(_measure)


async def _measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as directory, ExitStack() as running:
        async with AsyncExitStack() as open_tunnels:
            cases = await _start(Path(directory), running, open_tunnels)
            for _ in range(_ROUNDS):
                for name in random.sample(sorted(cases), len(cases)):
                    await _answer(cases[name])
            return [*_rows(cases)]


async def _start(
    directory: Path, running: ExitStack, open_tunnels: AsyncExitStack
) -> dict[str, _Case]:
    """Load the model over workers without tunnels, through plain ones and through TLS."""
    model, cases = real_model(), {}
    raw = [running.enter_context(run_worker()) for _ in range(2)]
    build = (await identify(COMPILED)).name
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    nodes = {name: _run_nodes(name, directory, authority, running) for name in ("plain", "TLS")}
    await trio.sleep(_LOOK_SECONDS)
    tunnels = Tunnels(Signer(("",)), PeerTrust(directory / "ca.pem"))
    log = directory / "llama.log"

    async def load(name: str, endpoints: list[str], relays: list[psutil.Process]) -> None:
        opened = run_llama(model, log, *over(endpoints, _LAYERS))
        split = await trio.to_thread.run_sync(running.enter_context, opened)
        cases[name] = _Case(split, relays)

    everyone = [psutil.Process()]
    everyone += [psutil.Process(n.process.pid) for pair in nodes.values() for n in pair]
    await load("raw", raw, everyone)
    for name, (first, second) in nodes.items():
        opened = [
            await open_tunnels.enter_async_context(
                tunnels.open(node.url, new_claim(f"{name}{number}", build))
            )
            for number, node in enumerate((first, second))
        ]
        await load(name, [tunnel.endpoint for tunnel in opened], everyone)
        cases[name].tunnels = list(opened)
        for tunnel in opened:
            tunnel.take_traffic()
    return cases


def _run_nodes(
    name: str, directory: Path, authority: trustme.CA, running: ExitStack
) -> list[Running]:
    flags = [f"--llama-server={COMPILED}", "--gpu-layers=0"]
    if name == "TLS":
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(directory / "key.pem")
        issued.cert_chain_pems[0].write_to_path(directory / "cert.pem")
        flags += [f"--tls-{kind}-file={directory / kind}.pem" for kind in ("cert", "key")]
    return [
        running.enter_context(
            Pair(directory / f"{name}{number}").node(f"--node-id={name}{number}", *flags)
        )
        for number in range(2)
    ]


async def _answer(case: _Case) -> None:
    before = _cpu(case.relays)
    _, rate = await trio.to_thread.run_sync(case.split.generate, _TOKENS)
    case.rates.append(rate)
    case.seconds += _cpu(case.relays) - before
    for tunnel in case.tunnels:
        traffic = tunnel.take_traffic()
        case.sent_bytes += traffic.sent_bytes + traffic.received_bytes


def _cpu(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _rows(cases: dict[str, _Case]) -> Iterator[Row]:
    raw = cases["raw"]
    for name, aim in (("plain", ">= 0.9"), ("TLS", ">= 0.7")):
        case = cases[name]
        ratios = [mine / its for mine, its in zip(case.rates, raw.rates, strict=True)]
        mine, its = (statistics.median(each.rates) for each in (case, raw))
        yield Row(
            f"{name} tunnels, tokens/s",
            f"{mine:.1f}",
            f"{its:.1f} without",
            f"{statistics.median(ratios):.2f}",
            aim,
        )
        # The processes work a little without traffic too, for as long as the answers take.
        idle = raw.seconds * sum(1 / rate for rate in case.rates) / sum(1 / r for r in raw.rates)
        busy = case.seconds - idle
        tokens = _TOKENS * _ROUNDS
        yield Row("  ... CPU of the relays, ms/token", f"{busy / tokens * 1e3:.2f}", "", "")
        megabytes = case.sent_bytes / 1e6
        yield Row("  ... CPU of the relays, ms/MB", f"{busy / megabytes * 1e3:.2f}", "", "")
        yield Row("  ... bytes, kB/token", f"{case.sent_bytes / tokens / 1e3:.0f}", "", "")
