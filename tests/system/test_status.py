"""`/status` of a real exporter with a real node."""

import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import Pair, free_port, wait_for


class Named(Pair):
    """A node of a mesh with its exporter."""

    def __init__(self, directory: Path, name: str) -> None:
        super().__init__(directory / name)
        self.flags = [flag for flag in self.flags if not flag.startswith("--node-id=")]
        self.flags.append(f"--node-id={name}")
        (directory / name).mkdir()


@pytest.mark.slow
def test_peers_are_linked_by_their_own_pages(tmp_path: Path) -> None:
    """Each node's page links the page of its peer, wherever that one's exporter listens."""
    a, b = Named(tmp_path, "a"), Named(tmp_path, "b")
    seed = free_port()
    with (
        a.exporter() as here,
        b.exporter() as there,
        a.node(f"--mesh-port={seed}"),
        b.node(f"--seed-nodes=127.0.0.1:{seed}"),
    ):

        def peers(url: str) -> Any:
            nodes = httpx.get(f"{url}/status").json()["nodes"]
            return [(peer["node_id"], peer["page_url"]) for node in nodes for peer in node["peers"]]

        wait_for(lambda: peers(here.url) == [("b", there.url)], 60)
        wait_for(lambda: peers(there.url) == [("a", here.url)], 60)


def test_stream_does_not_keep_the_exporter_from_ending(pair: Pair) -> None:
    """An exporter that is asked to stop does so with open streams, and tells its readers."""
    with (
        pair.exporter() as exporter,
        httpx.stream("GET", f"{exporter.url}/status/stream") as response,
    ):
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        assert exporter.end() == os.EX_OK
