"""A waiting request goes to the first free node, with adverts of any age."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from node.mesh.peer import ROUND_SECONDS
from tests.processes import Running, stream, wait_for
from tests.system.test_routing import STORY, Cluster, cluster, complete, knows

__all__ = ["cluster"]

REQUESTS = 50
BASELINE_EVERY = 5
"""One idle measurement for this many requests, as the machine's speed varies."""


def seconds_to_answer(node: Running) -> float:
    """Ask for five tokens; return how long the answer took."""
    began = time.monotonic()
    response = complete(node, max_tokens=5)
    assert response.status_code == 200, response.text
    return time.monotonic() - began


def silence(node: Running) -> float:
    """Return the age of the advert of a node's only peer."""
    (peer,) = httpx.get(f"{node.url}/cluster", timeout=60).json()["peers"]
    return float(peer["silent_seconds"])


@contextlib.contextmanager
def kept_busy(node: Running) -> Iterator[None]:
    """Keep a node busy with long answers."""
    stop, started = threading.Event(), threading.Event()

    def ask() -> None:
        while not stop.is_set():
            chunks = stream(node.url, max_tokens=1900, **STORY)
            for _ in chunks:
                started.set()
                if stop.is_set():
                    break
            chunks.close()  # type: ignore[attr-defined]

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        assert started.wait(60)
        yield
    finally:
        stop.set()
        asking.join()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_short_requests_do_not_wait_behind_a_long_answer(
    cluster: Cluster, slow_model: Path
) -> None:
    """With one busy and one idle node, requests wait for at most one round of adverts."""
    first = cluster.start("a", f"story={slow_model}")
    second = cluster.start("b", f"story={slow_model}")
    wait_for(lambda: knows(first, "story"))
    times, idle, silences = [], [], [ROUND_SECONDS]
    with kept_busy(first):
        for number in range(REQUESTS):
            if number % BASELINE_EVERY == 0:
                idle.append(seconds_to_answer(second))
            silences.append(silence(first))
            times.append(seconds_to_answer(first))
    assert max(times) <= max(silences) + 3 * max(idle), (sorted(times), idle, silences)
    asked = len(times) + len(idle)
    wait_for(lambda: _ended(cluster) >= asked + 1)
    assert cluster.requests("b") >= len(idle)


def _ended(cluster: Cluster) -> float:
    counts = [
        cluster.requests(name, status) for name in ("a", "b") for status in ("ok", "cancelled")
    ]
    return sum(counts)
