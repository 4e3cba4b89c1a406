"""Run three agents on one machine, each with models of its own: a mesh to inspect and to try.

`just run-cluster` runs it. The agents are the product's own processes; this program starts them,
waits for them, prints a table, and stops them together.
"""

import contextlib
import json
import logging.config
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio

from deployments.demo_model.deeper import write_deeper
from node.demo import MODEL_PATH
from shared import logs

PORTS: Final = ((8080, 9090, 7946), (8081, 9092, 7947), (8082, 9093, 7948))
"""Ports of API, metrics and mesh; 9091 is left to a local Prometheus."""
_READY_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.25
_STOP_SECONDS: Final = 45.0


@dataclass(frozen=True)
class Member:
    """One agent of the mesh."""

    name: str
    models: tuple[str, ...]
    context_length: int
    api_port: int
    metrics_port: int
    mesh_port: int
    seed: str

    def command(self, directory: Path, flags: Sequence[str]) -> list[str]:
        """Return its command line."""
        return [
            sys.executable,
            "-m",
            "node.agent",
            f"--node-id={self.name}",
            f"--model={','.join(self.models)}",
            f"--context-length={self.context_length}",
            f"--api-port={self.api_port}",
            f"--metrics-port={self.metrics_port}",
            f"--mesh-port={self.mesh_port}",
            f"--seed-nodes={self.seed}",
            f"--runtime-dir={directory / self.name}",
            f"--state-dir={directory / self.name / 'state'}",
            "--threads=1",
            "--log-level=warning",
            *flags,
        ]


class AgentEndedError(Exception):
    """An agent ended by itself and has reported why. Carries its exit code."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"the agent {name} ended with status {code}")
        self.code = code


def main(flags: Sequence[str], ports: Sequence[tuple[int, int, int]] = PORTS) -> int:
    """Run the mesh until Ctrl-C and return the exit code.

    Args:
        flags: Further flags for each agent.
        ports: Those of API, metrics and mesh of each.
    """
    logging.config.dictConfig(logs.configuration("warning", "text"))
    code = 0
    try:
        trio.run(run, flags, ports)
    except* AgentEndedError as group:
        ended = _first(group)
        sys.stderr.write(f"run-cluster: {ended}\n")
        code = ended.code
    return code


async def run(flags: Sequence[str], ports: Sequence[tuple[int, int, int]]) -> None:
    """Start the agents, print which models each has, and wait for SIGINT or SIGTERM."""
    with (
        trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals,
        tempfile.TemporaryDirectory(prefix="distributed-llm-cluster-") as name,
    ):
        directory = Path(name)
        members = _members(directory, ports)
        async with trio.open_nursery() as nursery:
            for member in members:
                nursery.start_soon(_keep, member, directory, flags, name=member.name)
            nursery.start_soon(_show, members, name="table")
            await anext(signals)
            sys.stdout.write("\nstopping\n")
            nursery.cancel_scope.cancel()


def table(views: Sequence[dict[str, Any]]) -> str:
    """Format which models each node has, from its answer to `GET /cluster`."""
    rows = [("node", "API", "mesh", "peers", "model", "layers", "size", "context", "state")]
    for view in views:
        alive = sum(peer["state"] == "alive" for peer in view["peers"])
        first = (view["node_id"], view["advert"]["api_url"], view["address"], str(alive))
        for model in view["advert"]["models"]:
            rows.append((*first, *_cells(model)))
            first = ("", "", "", "")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    return "\n".join(lines)


def _cells(model: dict[str, Any]) -> tuple[str, ...]:
    megabytes = f"{model['size_bytes'] / 1e6:.1f} MB"
    context = str(model["context_length"])
    return (model["model_id"], str(model["layers"]), megabytes, context, model["state"])


def _members(directory: Path, ports: Sequence[tuple[int, int, int]]) -> list[Member]:
    deeper = directory / "deeper.gguf"
    write_deeper(deeper, 3)
    tales, epics = f"tales={MODEL_PATH}", f"epics={deeper}"
    given: list[tuple[str, tuple[str, ...], int]] = [
        ("node1", (tales,), 512),
        ("node2", (tales, epics), 256),
        ("node3", (epics, f"sketches={MODEL_PATH}"), 128),
    ]
    seed = f"127.0.0.1:{ports[0][-1]}"
    return [Member(*member, *own, seed) for member, own in zip(given, ports, strict=True)]


async def _keep(member: Member, directory: Path, flags: Sequence[str]) -> None:
    """Run an agent until cancelled.

    Raises:
        AgentEndedError: It ended by itself.
    """
    command = member.command(directory, flags)
    # In its own session: Ctrl-C reaches this process only, which then ends the agents.
    process = await trio.lowlevel.open_process(
        command, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        code = await process.wait()
    finally:
        await _stop(process)
    raise AgentEndedError(member.name, code)


async def _stop(process: trio.Process) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with trio.move_on_after(_STOP_SECONDS, shield=True):
            await process.wait()
    if process.poll() is None:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _show(members: Sequence[Member]) -> None:
    """Print the table once every node serves and knows the others."""
    views: list[dict[str, Any]] = []
    with trio.move_on_after(_READY_SECONDS):
        while not _is_complete(views, len(members)):
            await trio.sleep(_POLL_SECONDS)
            urls = [f"http://127.0.0.1:{member.api_port}/cluster" for member in members]
            asked = [await trio.to_thread.run_sync(_get, url) for url in urls]
            views = [view for view in asked if view is not None]
    if not _is_complete(views, len(members)):
        sys.stdout.write(f"after {_READY_SECONDS:g} s not every node is there:\n")
    sys.stdout.write(f"\n{table(views)}\n{_hints(members[0].api_port)}")
    sys.stdout.flush()


def _is_complete(views: Sequence[dict[str, Any]], count: int) -> bool:
    return len(views) == count and all(
        sum(peer["state"] == "alive" for peer in view["peers"]) == count - 1
        and all(model["state"] == "ready" for model in view["advert"]["models"])
        for view in views
    )


def _get(url: str) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=2) as got:  # noqa: S310
        view: dict[str, Any] = json.load(got)
        return view
    return None


def _first(group: BaseExceptionGroup[AgentEndedError]) -> AgentEndedError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _hints(api_port: int) -> str:
    return f"""
Try it in another terminal; Ctrl-C here stops all three:

  curl http://127.0.0.1:{api_port}/cluster
  distributed-llm-node plan --explain {MODEL_PATH}
  curl -N http://127.0.0.1:{api_port}/v1/completions \\
    -d '{{"model": "tales", "prompt": "Once upon a time", "stream": true}}'

"""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
