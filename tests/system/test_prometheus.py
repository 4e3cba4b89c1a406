"""A real Prometheus against a real exporter."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import PREFIX, Pair, free_port, wait_for

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="needs prometheus and promtool on PATH (Debian: apt-get install prometheus)",
)


@contextmanager
def prometheus(directory: Path, target: str) -> Iterator[str]:
    """Run a Prometheus that scrapes one target every second; gives its URL."""
    directory.mkdir(parents=True)
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{"job_name": "llm", "static_configs": [{"targets": [target]}]}],
    }
    (directory / "prometheus.yml").write_text(json.dumps(config))
    port = free_port()
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: _is_ready(url))
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def query(url: str, expression: str) -> list[dict[str, Any]]:
    """Run an instant query."""
    response = httpx.get(f"{url}/api/v1/query", params={"query": expression})
    response.raise_for_status()
    result: list[dict[str, Any]] = response.json()["data"]["result"]
    return result


@needs_prometheus
def test_prometheus_scrapes_what_the_node_did(pair: Pair, tmp_path: Path) -> None:
    """Prometheus finds the target healthy and shows a request that the node served."""
    with pair.exporter() as exporter, pair.node() as node:
        target = exporter.url.removeprefix("http://")
        with prometheus(tmp_path / "prometheus", target) as url:
            body = {"prompt": "Once upon a time", "max_tokens": 8}
            httpx.post(f"{node.url}/v1/completions", json=body).raise_for_status()
            counted = f'{PREFIX}inference_requests_total{{status="ok"}} == 1'
            (row,) = wait_for(lambda: query(url, counted))
            assert row["metric"]["node_id"] == "node1"
            assert row["metric"]["model_id"] == "demo"
            (up,) = query(url, "up")
            assert up["value"][1] == "1"
            types = httpx.get(f"{url}/api/v1/metadata").json()["data"]
            assert types[f"{PREFIX}inference_latency_seconds"][0]["type"] == "histogram"


@needs_prometheus
def test_promtool_likes_the_exposition(pair: Pair) -> None:
    """`promtool check metrics` finds nothing to say of a scrape."""
    with pair.exporter() as exporter, pair.node() as node:
        body = {"prompt": "Once upon a time", "max_tokens": 8}
        httpx.post(f"{node.url}/v1/completions", json=body).raise_for_status()
        time.sleep(1)
        shown = httpx.get(f"{exporter.url}/metrics").text
        told = subprocess.run(  # noqa: PLW1510
            ["promtool", "check", "metrics"],
            input=shown,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert (told.returncode, told.stdout, told.stderr) == (0, "", "")
