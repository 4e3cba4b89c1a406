"""A real Alertmanager for tests, with the project's configuration, and what it sends."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from tests.monitoring.sources import PROMETHEUS
from tests.processes import free_port, wait_for

CONFIGURATION: Final = PROMETHEUS / "alertmanager.yml"
PROGRAM: Final = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")


@dataclass(frozen=True)
class Notification:
    """One message that a person would get."""

    receiver: str
    status: str
    alerts: tuple[str, ...]
    """Names, in order."""


@dataclass(frozen=True)
class Alertmanager:
    """One that runs, and every notification that it has sent so far."""

    target: str
    """Host and port."""
    sent: list[Notification]


@contextmanager
def alertmanager(directory: Path, group_seconds: int = 3) -> Iterator[Alertmanager]:
    """Run one whose receivers report here; it waits for a group for seconds only."""
    assert PROGRAM
    directory.mkdir(parents=True, exist_ok=True)
    sent: list[Notification] = []
    target = f"127.0.0.1:{free_port()}"
    with _receiver(sent) as url, (directory / "log").open("w") as log:
        config = hasty_configuration(url, group_seconds)
        (directory / "alertmanager.yml").write_text(json.dumps(config))
        process = subprocess.Popen(
            [
                PROGRAM,
                f"--config.file={directory}/alertmanager.yml",
                f"--storage.path={directory}/data",
                f"--web.listen-address={target}",
                "--cluster.listen-address=",
            ],
            stderr=log,
        )
        try:
            wait_for(lambda: process.poll() is not None or _is_ready(f"http://{target}"))
            assert process.poll() is None, (directory / "log").read_text()
            yield Alertmanager(target, sent)
        finally:
            process.terminate()
            process.wait(timeout=20)


def hasty_configuration(url: str, group_seconds: int) -> dict[str, Any]:
    """Return the project's configuration with a webhook in each receiver and short waits."""
    config: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text())
    config["route"] |= {"group_wait": f"{group_seconds}s", "group_interval": f"{group_seconds}s"}
    for receiver in config["receivers"]:
        receiver["webhook_configs"] = [{"url": f"{url}/{receiver['name']}"}]
    return config


@contextmanager
def _receiver(sent: list[Notification]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            names = tuple(sorted(alert["labels"]["alertname"] for alert in body["alerts"]))
            sent.append(Notification(body["receiver"], body["status"], names))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Stay quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False
