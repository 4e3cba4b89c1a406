"""Runs a real Prometheus on a free port and queries it."""

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx

from tests.processes import free_port, wait_for


def is_prometheus_since(*version: int) -> bool:
    """Return whether the Prometheus on PATH has this version or a newer one."""
    if not shutil.which("prometheus"):
        return False
    told = subprocess.run(["prometheus", "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"version (\d+)\.(\d+)", told.stdout + told.stderr)
    return found is not None and tuple(map(int, found.groups())) >= version


@contextmanager
def prometheus(directory: Path, target: str) -> Iterator[str]:
    """Run a Prometheus that scrapes one target every second; yield its URL."""
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{"job_name": "llm", "static_configs": [{"targets": [target]}]}],
    }
    with configured_prometheus(directory, config) as url:
        yield url


@contextmanager
def configured_prometheus(
    directory: Path, config: dict[str, Any], features: str = "exemplar-storage"
) -> Iterator[str]:
    """Run a Prometheus with a custom configuration and optional features; yield its URL.

    Rule files must be given by absolute paths, or relative to the directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "prometheus.yml").write_text(json.dumps(config))
    port = free_port()
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{port}",
                f"--enable-feature={features}",
            ],
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: process.poll() is not None or _is_ready(url))
        assert process.poll() is None, (directory / "log").read_text()
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


def query(url: str, expression: str, at: float | None = None) -> list[dict[str, Any]]:
    """Run an instant query, for now or for a Unix time."""
    return _ask(url, "query", {"query": expression} | ({} if at is None else {"time": at}))


def query_range(
    url: str, expression: str, start: float, end: float, step: float
) -> list[dict[str, Any]]:
    """Run a range query between two Unix times."""
    asked: dict[str, str | float] = {"query": expression, "start": start, "end": end, "step": step}
    return _ask(url, "query_range", asked)


def _ask(url: str, path: str, asked: Mapping[str, str | float]) -> list[dict[str, Any]]:
    # A dashboard makes a hundred queries, and each new client of httpx reads all certificates.
    try:
        with urllib.request.urlopen(
            f"{url}/api/v1/{path}?{urlencode(asked)}", timeout=30
        ) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{asked['query']}: {error.read().decode()}") from error
    return result


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False
