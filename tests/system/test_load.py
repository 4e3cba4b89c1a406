"""Two hundred concurrent clients, half of which leave: all are counted, nothing leaks."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil
import pytest
import trio

from tests.processes import Pair, Running, Samples, scrape, value, wait_for

CLIENTS = 200
LEAVERS = CLIENTS // 2
LONGEST_STAY_SECONDS = 3.0
FILES_TO_SPARE = 8
TASKS_TO_SPARE = 4
"""A health check may be running at each look."""
MEMORY_TO_SPARE = 24 * 2**20
"""Two waves warm up the allocators before the first look; a leak would be many times this."""

pytestmark = pytest.mark.slow


def test_crowd_is_accounted_for_and_leaves_nothing(pair: Pair, slow_model: Path) -> None:
    """With 200 clients and a queue of 16, each request has one end, and nothing leaks."""
    with (
        pair.exporter() as exporter,
        pair.node(f"--model={slow_model}", "--queue=16", "--request-seconds=60") as node,
    ):
        at_rest = wait_for(lambda: _tasks_at_rest(scrape(exporter.url)))
        asked = Counter[str]()
        for wave in range(2):
            asked += trio.run(_crowd, node, wave)
        before = _look(exporter, node, 2 * CLIENTS, at_rest)
        asked += trio.run(_crowd, node, 2)
        after = _look(exporter, node, 3 * CLIENTS, at_rest)
        samples = scrape(exporter.url)
    _check_accounts(samples, asked)
    assert after.files <= before.files + FILES_TO_SPARE
    assert after.memory <= before.memory + MEMORY_TO_SPARE


class _Look(NamedTuple):
    """The resources of an idle node."""

    files: int
    memory: int


def _look(exporter: Running, node: Running, requests: int, tasks_at_rest: float) -> _Look:
    """Return the resources once every request has ended and none has a task left."""
    wait_for(lambda: _is_settled(scrape(exporter.url), requests, tasks_at_rest), 60)
    process = psutil.Process(node.process.pid)
    return _Look(process.num_fds(), process.memory_info().rss)


def _is_settled(samples: Samples, requests: int, tasks_at_rest: float) -> bool:
    return (
        value(samples, "inference_requests_in_flight") == 0
        and value(samples, "http_requests_total", route="/v1/completions") == requests
        and (value(samples, "system_goroutines") or 0) <= tasks_at_rest + TASKS_TO_SPARE
    )


def _tasks_at_rest(samples: Samples) -> float | None:
    started = (value(samples, "node_uptime_seconds") or 0) > 3  # the first ones are from before
    return value(samples, "system_goroutines") if started else None


def _check_accounts(samples: Samples, asked: Counter[str]) -> None:
    """Compare what the clients saw with what the node counted."""

    def count(status: str) -> float:
        return value(samples, "inference_requests_total", status=status) or 0

    assert asked.total() == 3 * CLIENTS
    assert not set(asked) - {"200", "429", "left"}, asked
    # A client that left has one of these ends too, or left before admission.
    assert count("ok") >= asked["200"]
    assert count("rejected") >= asked["429"]
    ended = sum(map(count, ("ok", "rejected", "cancelled")))
    assert asked["200"] + asked["429"] <= ended <= asked.total()
    assert value(samples, "inference_requests_total") == ended
    assert value(samples, "inference_latency_seconds_count") == ended
    assert value(samples, "inference_slots", state="busy") == 0
    assert value(samples, "inference_queue_depth") == 0
    assert value(samples, "engine_restarts_total") == 0
    assert value(samples, "telemetry_events_lost") == 0
    assert count("cancelled") > 0
    assert count("rejected") > 0


async def _crowd(node: Running, wave: int) -> Counter[str]:
    """Send from all clients at once; count the statuses and the clients that left."""
    seen = Counter[str]()
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            for client in range(CLIENTS):
                nursery.start_soon(_ask, node.url, wave * CLIENTS + client, seen)
    return seen


async def _ask(url: str, client: int, seen: Counter[str]) -> None:
    draw = random.Random(client)
    asked = {"prompt": f"client {client}", "max_tokens": 40, "stream": draw.random() < 0.5}
    body = json.dumps(asked).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: node\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    address = urlsplit(url)
    stream = await trio.open_tcp_stream(address.hostname or "", address.port or 0)
    async with stream:
        await stream.send_all(head.encode() + body)
        leaves = client % CLIENTS < LEAVERS
        received = b""
        with trio.move_on_after(draw.uniform(0, LONGEST_STAY_SECONDS) if leaves else 90) as stay:
            async for some in stream:
                received += some
    seen["left" if stay.cancelled_caught else received[9:12].decode()] += 1
