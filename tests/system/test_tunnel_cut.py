"""A network that loses everything: both ends of a tunnel notice, and nothing is left behind."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.chaos.meshes import lose_all, two_hosts
from tests.patience import factor
from tests.processes import command_of, wait_for
from tests.tunnels import fake_build

SECRET = "the secret of the mesh that a test made"
PORT = 8080
NOTICE_SECONDS = 3.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(os.geteuid()) or not shutil.which("ip"),
        reason="network namespaces need root and iproute2",
    ),
]


def test_cut_network_ends_tunnel_and_worker(tmp_path: Path) -> None:
    """Without an error from the network, the coordinator knows within 3 s; the worker ends."""
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    with two_hosts() as (names, addresses):
        lender = [
            *("ip", "netns", "exec", names[0], sys.executable, "-m", "node", "--node-id=n0"),
            *(f"--host={addresses[0]}", f"--api-port={PORT}", "--threads=1"),
            *(f"--runtime-dir={tmp_path / 'run'}", f"--state-dir={tmp_path / 'state'}"),
            f"--mesh-secret-file={tmp_path / 'secret'}",
            f"--llama-server={fake_build(tmp_path / 'build')}",
        ]
        url = f"http://{addresses[0]}:{PORT}"
        coordinator = [
            *("ip", "netns", "exec", names[1]),
            *(sys.executable, "-m", "tests.tunnel_client", url, "n0", SECRET),
        ]
        log = tmp_path / "node.log"
        with log.open("w") as printed, running(lender, stderr=printed) as node:
            wait_for(lambda: "API on" in log.read_text(), 60)
            with running(coordinator, stdout=subprocess.PIPE, text=True) as client:
                assert client.stdout.readline() == "open\n"
                lose_all(names, addresses)
                cut_at = time.monotonic()
                loss, at = client.stdout.readline().split()
                assert loss == "frozen"
                assert float(at) - cut_at < NOTICE_SECONDS * factor()
                wait_for(lambda: not workers_of(node.pid))


@contextmanager
def running(command: list[str], **options: Any) -> Iterator[Any]:
    """Run a process until the block ends."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def workers_of(process_id: int) -> list[psutil.Process]:
    children = psutil.Process(process_id).children(recursive=True)
    return [child for child in children if "ggml-rpc-server" in " ".join(command_of(child))]
