"""A node and its exporter under load, scraped by a real Prometheus that has the project's rules."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from tests.monitoring.sources import PROMETHEUS, RULES
from tests.processes import Pair, Running
from tests.prometheus import configured_prometheus

_STORY: Final = {"prompt": "Once upon a time", "max_tokens": 60}


@dataclass(frozen=True)
class Scene:
    """What runs."""

    prometheus: str
    node: Running
    exporter: Running
    began: float
    """Unix time."""


def configuration(target: str, rules: list[str] | None = None) -> dict[str, Any]:
    """Give the project's configuration with another target and everything every second."""
    config: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = rules or [str(file) for file in RULES]
    (job,) = config["scrape_configs"]
    job |= {
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "static_configs": [
            {"targets": [target], "labels": {"cluster": "here", "namespace": "tests"}}
        ],
    }
    return config


@contextlib.contextmanager
def scene(directory: Path) -> Iterator[Scene]:
    """Run node, exporter and Prometheus, with clients that come, go, and do as clients do."""
    pair = Pair(directory)
    with pair.exporter() as exporter, pair.node() as node:
        config = configuration(exporter.url.removeprefix("http://"))
        prometheus = configured_prometheus(directory / "prometheus", config)
        with prometheus as url, load(node.url, ask, read_stream, _leave, _err):
            yield Scene(url, node, exporter, time.time())


@contextlib.contextmanager
def load(api: str, *acts: Callable[[str], None]) -> Iterator[None]:
    """Have a client repeat each act until the block ends."""
    over = threading.Event()
    clients = [
        threading.Thread(target=_repeat, args=(over, act, api), name=act.__name__) for act in acts
    ]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        over.set()
        for client in clients:
            client.join()


def _repeat(over: threading.Event, act: Callable[[str], None], api: str) -> None:
    while not over.wait(0.3):
        # A node that is being stopped or killed refuses: these clients come again.
        with contextlib.suppress(httpx.HTTPError):
            act(api)


def ask(api: str) -> None:
    """Request a completion and wait for it."""
    httpx.post(f"{api}/v1/completions", json=_STORY, timeout=60)


def read_stream(api: str) -> None:
    """Request a streamed chat answer and read it to its end."""
    body = {
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "stream": True,
        "max_tokens": 120,
    }
    with httpx.stream("POST", f"{api}/v1/chat/completions", json=body, timeout=60) as response:
        for _ in response.iter_bytes():
            pass


def _leave(api: str) -> None:
    body = _STORY | {"stream": True, "max_tokens": 400}
    with httpx.stream("POST", f"{api}/v1/completions", json=body, timeout=60) as response:
        for at, _ in enumerate(response.iter_bytes()):
            if at == 5:
                return


def _err(api: str) -> None:
    httpx.post(f"{api}/v1/completions", json={"prompt": 1.5}, timeout=60)
    httpx.get(f"{api}/nothing/here", timeout=60)
