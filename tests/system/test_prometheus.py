"""A real Prometheus against a real exporter."""

import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.processes import PREFIX, Pair, scrape, value, wait_for
from tests.prometheus import prometheus, query

REPOSITORY = Path(__file__).parents[2]

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="needs prometheus and promtool on PATH (Debian: apt-get install prometheus)",
)


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
        wait_for(lambda: value(scrape(exporter.url), "inference_requests_total", status="ok"))
        shown = httpx.get(f"{exporter.url}/metrics").text
        told = subprocess.run(  # noqa: PLW1510
            ["promtool", "check", "metrics"],
            input=shown,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


@needs_prometheus
def test_configuration_for_prometheus_is_sound() -> None:
    """The configuration that comes with the project is one that Prometheus takes."""
    told = subprocess.run(  # noqa: PLW1510
        ["promtool", "check", "config", REPOSITORY / "deployments/prometheus/prometheus.yml"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert told.returncode == 0, told.stdout + told.stderr
