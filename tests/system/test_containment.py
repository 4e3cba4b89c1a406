"""No part ends its process: each raises an unexpected exception, and the rest goes on."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
import trustme

from exporter.metrics.catalogue.exporter import ExporterPart
from shared.events.node import NodePart
from tests import faulty
from tests.processes import Pair, Running, free_port, scrape, start, value, wait_for

KEY = {"Authorization": "Bearer key"}


@dataclass
class Faulty:
    """A node and its exporter whose parts can be made to fail."""

    node: Running
    exporter: Running
    faults: Path

    def plant(self, part: str) -> None:
        """Make a part fail, in the process that has it."""
        (self.faults / part).touch()
        wait_for(lambda: not (self.faults / part).exists())

    def complete(self) -> httpx.Response:
        """Request an answer on a new connection."""
        url = f"{self.node.url}/v1/completions"
        asked = {"prompt": "Once", "max_tokens": 2}
        return httpx.post(url, json=asked, headers=KEY, verify=False, timeout=60)  # noqa: S501

    def count(self, name: str, part: str) -> float:
        """Return how often a part has failed."""
        return value(scrape(self.exporter.url, KEY), name, part=part) or 0.0


def flags_for_every_part(directory: Path) -> list[str]:
    """Return the flags of a node that has every part."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    (directory / "keys").write_text("key\n")
    return [
        f"--api-key-file={directory / 'keys'}",
        f"--tls-cert-file={directory / 'cert.pem'}",
        f"--tls-key-file={directory / 'key.pem'}",
        f"--seed-nodes=127.0.0.1:{free_port()}",
    ]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Faulty, Faulty]]:
    """Run a faulty node beside a sound exporter, and the other way round."""
    directory = tmp_path_factory.mktemp("faulty")
    faults = {name: directory / f"{name}-faults" for name in ("node", "exporter")}
    for each in faults.values():
        each.mkdir()
    pair = Pair(directory)
    api = flags_for_every_part(directory)
    (directory / "web.yml").write_text("http_server_config: {headers: {X-Frame-Options: deny}}")
    every = [
        f"--metrics-token-file={directory / 'keys'}",
        f"--web-config-file={directory / 'web.yml'}",
        f"--request-log={directory / 'requests.log'}",
        f"--otlp-endpoint=http://127.0.0.1:{free_port()}",
    ]
    environment = os.environ | {"WATCHDOG_USEC": "1000000"}

    def run(program: str, *flags: str) -> Any:
        with_faults = environment | {faulty.FAULTS: str(faults[program])}
        return start(
            ["tests.faulty", program, *pair.flags, *flags], directory, environment=with_faults
        )

    with (
        run("exporter", "--metrics-port=0", *every) as exporter,
        run("node", "--api-port=0", "--mesh-port=0", "--threads=1", *api) as node,
    ):
        yield (
            Faulty(node, exporter, faults["node"]),
            Faulty(node, exporter, faults["exporter"]),
        )


def assert_traceback(log: Path, part: str) -> None:
    """Check that a contained error is in the log with its traceback."""
    text = log.read_text()
    assert f"{part} failed unexpectedly" in text
    assert f"PlantedError: {part}\n" in text


@pytest.mark.parametrize("part", get_args(NodePart))
def test_node_serves_on_when_a_part_fails(running: tuple[Faulty, Faulty], part: str) -> None:
    """When any part of the node fails, requests are answered and the metric names the part."""
    node, _ = running
    node.plant(part)
    wait_for(lambda: node.count("node_internal_errors_total", part) == 1)
    answer = node.complete()
    assert answer.status_code == 200, answer.text
    assert node.node.process.poll() is None
    assert_traceback(node.node.log, part)


@pytest.mark.parametrize("part", get_args(ExporterPart))
def test_exporter_answers_on_when_a_part_fails(running: tuple[Faulty, Faulty], part: str) -> None:
    """When any part of the exporter fails, scrapes are answered and the metric names the part."""
    _, exporter = running
    exporter.plant(part)
    wait_for(lambda: exporter.count("exporter_internal_errors_total", part) == 1)
    assert exporter.exporter.process.poll() is None
    assert_traceback(exporter.exporter.log, part)
