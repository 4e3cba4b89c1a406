"""The probe from outside: a real blackbox exporter and Prometheus, about a real node."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from tests.monitoring.sources import PROMETHEUS
from tests.processes import Pair, free_port, wait_for
from tests.prometheus import configured_prometheus, query

PROGRAM = shutil.which("prometheus-blackbox-exporter") or shutil.which("blackbox_exporter")
pytestmark = pytest.mark.skipif(
    not (PROGRAM and shutil.which("prometheus")),
    reason="needs prometheus and blackbox_exporter on PATH (Debian: apt-get install prometheus "
    "prometheus-blackbox-exporter)",
)


@contextmanager
def blackbox() -> Iterator[str]:
    """Run the blackbox exporter with the project's configuration; gives its address."""
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            str(PROGRAM),
            f"--config.file={PROMETHEUS / 'blackbox.yml'}",
            f"--web.listen-address={address}",
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: process.poll() is not None or _answers(f"http://{address}/-/healthy"))
        assert process.poll() is None
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.mark.slow
def test_dead_node_is_seen_from_outside(tmp_path: Path) -> None:
    """The probe succeeds while the node serves, and fails when it was killed."""
    pair = Pair(tmp_path / "pair")
    text = (PROMETHEUS / "scrape-probe.yml").read_text()
    with pair.node() as node, blackbox() as address:
        text = text.replace("http://localhost:8080", node.url).replace("localhost:9115", address)
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": yaml.safe_load(text),
        }
        config["scrape_configs"][0] |= {"scrape_interval": "1s"}
        with configured_prometheus(tmp_path / "prometheus", config) as url:
            probe = 'probe_success{job="distributed-llm-probe"}'
            wait_for(lambda: query(url, f"{probe} == 1"))
            node.end(signal.SIGKILL)
            (failed,) = wait_for(lambda: query(url, f"{probe} == 0"))
            assert failed["metric"]["instance"] == f"{node.url}/health"


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
