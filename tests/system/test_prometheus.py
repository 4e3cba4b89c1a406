"""A real Prometheus against a real exporter."""

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import yaml

from exporter.metrics.catalogue.families import FAMILIES
from tests.batches import Emitter
from tests.processes import PREFIX, Pair, scrape, value, wait_for
from tests.prometheus import configured_prometheus, is_prometheus_since, prometheus, query
from tests.whole_node import whole_node

REPOSITORY = Path(__file__).parents[2]

_SMALL_BUDGET = "--series-budget=17"
"""Fewer than the routes of a whole node, so that labels fold."""
_TYPES = {PREFIX + family.name.removesuffix("_total"): family.kind for family in FAMILIES}

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="needs prometheus and promtool on PATH (Debian: apt-get install prometheus)",
)

pytestmark = pytest.mark.slow


@needs_prometheus
def test_prometheus_scrapes_what_the_node_did(pair: Pair, tmp_path: Path) -> None:
    """Prometheus finds the target healthy and shows a served request."""
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
@pytest.mark.parametrize("openmetrics", [True, False], ids=["openmetrics", "text"])
def test_prometheus_knows_each_familys_type(
    pair: Pair, tmp_path: Path, *, openmetrics: bool
) -> None:
    """Prometheus scrapes every family in both formats with its declared type."""
    with (
        pair.exporter(_SMALL_BUDGET) as exporter,
        forwarder(exporter.url, openmetrics=openmetrics) as (target, content_types),
        prometheus(tmp_path / "prometheus", target) as url,
    ):
        node = Emitter(pair.directory)

        def told() -> dict[str, str]:
            node.send(*whole_node())  # a silent node loses its gauges
            metadata = httpx.get(f"{url}/api/v1/metadata").json()["data"]
            return {name: kinds[0]["type"] for name, kinds in metadata.items()}

        wait_for(lambda: _TYPES.keys() <= {name.removesuffix("_total") for name in told()})
        types = {name.removesuffix("_total"): kind for name, kind in told().items()}
        assert {name: types[name] for name in _TYPES} == _TYPES
        (scraped,) = httpx.get(f"{url}/api/v1/targets").json()["data"]["activeTargets"]
        assert (scraped["health"], scraped["lastError"]) == ("up", "")
        expected = "application/openmetrics-text" if openmetrics else "text/plain"
        assert {content_type.partition(";")[0] for content_type in content_types} == {expected}
        node.close()


@contextmanager
def forwarder(url: str, *, openmetrics: bool) -> Iterator[tuple[str, list[str]]]:
    """Forward scrapes; yield the address and the content types of the responses.

    Without `openmetrics` the request's `Accept` is replaced by `*/*`.
    """
    content_types: list[str] = []

    class Forward(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            accept = self.headers["Accept"] if openmetrics else "*/*"
            answer = httpx.get(url + self.path, headers={"Accept": accept})
            content_types.append(answer.headers["content-type"])
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers["content-type"])
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Forward) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", content_types
        finally:
            server.shutdown()
            thread.join()


@needs_prometheus
def test_promtool_likes_every_family(pair: Pair) -> None:
    """`promtool check metrics` accepts a scrape that has each family."""
    with pair.exporter(_SMALL_BUDGET) as exporter:
        node = Emitter(pair.directory)
        node.send(*whole_node())
        wait_for(lambda: value(scrape(exporter.url), "exporter_series_folded_total"))
        node.send(*whole_node())
        shown = httpx.get(f"{exporter.url}/metrics").text
        node.close()
    typed = re.findall(rf"(?m)^# TYPE {PREFIX}(\S+) ", shown)
    assert {name.removesuffix("_total") for name in typed} == {
        family.name.removesuffix("_total") for family in FAMILIES
    }
    _assert_quiet(shown)


@needs_prometheus
def test_promtool_likes_the_exposition(pair: Pair) -> None:
    """`promtool check metrics` accepts a scrape."""
    with pair.exporter() as exporter, pair.node() as node:
        body = {"prompt": "Once upon a time", "max_tokens": 8}
        httpx.post(f"{node.url}/v1/completions", json=body).raise_for_status()
        wait_for(lambda: value(scrape(exporter.url), "inference_requests_total", status="ok"))
        shown = httpx.get(f"{exporter.url}/metrics").text
        _assert_quiet(shown)


def _assert_quiet(shown: str) -> None:
    told = subprocess.run(  # noqa: PLW1510
        ["promtool", "check", "metrics"], input=shown, capture_output=True, text=True, timeout=30
    )
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


@needs_prometheus
def test_configuration_for_prometheus_is_sound() -> None:
    """Prometheus accepts the configuration that comes with the project."""
    told = subprocess.run(  # noqa: PLW1510
        ["promtool", "check", "config", REPOSITORY / "deployments/prometheus/prometheus.yml"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.skipif(
    not is_prometheus_since(3, 4), reason="needs Prometheus 3.4 or newer (Debian 12 has 2.42)"
)
def test_prometheus_converts_histograms_to_native_ones(pair: Pair, tmp_path: Path) -> None:
    """The options of docs/monitoring.md give native histograms beside the classic ones.

    Debian sid's package of Prometheus 3.5 runs on Debian 12.
    """
    page = (REPOSITORY / "docs" / "monitoring.md").read_text()
    (block,) = re.findall(r"```yaml\n( +scrape_native_histograms.*?)```", page, re.DOTALL)
    with pair.exporter() as exporter, pair.node() as node:
        body = {"prompt": "Once upon a time", "max_tokens": 8}
        httpx.post(f"{node.url}/v1/completions", json=body).raise_for_status()
        target = {"targets": [exporter.url.removeprefix("http://")]}
        options = yaml.safe_load(block)
        features = "exemplar-storage"
        if not is_prometheus_since(3, 9):
            del options["scrape_native_histograms"]
            features = "native-histograms"
        job = {"job_name": "llm", "static_configs": [target]} | options
        config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}
        name = f"{PREFIX}inference_latency_seconds"
        with configured_prometheus(tmp_path / "prometheus", config, features) as url:
            wait_for(lambda: query(url, f'histogram_count({name}{{status="ok"}}) == 1'))
            wait_for(lambda: query(url, f'{name}_bucket{{status="ok",le="+Inf"}} == 1'))
