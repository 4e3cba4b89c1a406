"""A node's totals add up over every kind of end."""

import os
import signal
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.patience import patient
from tests.processes import PREFIX, Pair, Running, Samples, scrape, stream, value, wait_for

TOKENS = 12

pytestmark = pytest.mark.slow


def test_totals_add_up_over_every_kind_of_end(pair: Pair, slow_model: Path, tmp_path: Path) -> None:
    """Statuses, finish reasons, tokens and phases of a mixed load agree with each other."""
    model = tmp_path / "model.gguf"
    model.hardlink_to(slow_model)
    flags = ("--queue=1", "--context-length=256", f"--request-seconds={patient(8)}")
    with pair.exporter() as exporter, pair.node(f"--model={model}", *flags) as node:
        delivered = _finish_two(node)
        _send_too_long(node)
        delivered += _leave_in_the_middle(node)
        _overfill(node)
        _run_out_of_time(node)
        delivered += _lose_the_engine(node, model)
        samples = wait_for(lambda: _settled(exporter))
    requests = {s: value(samples, "inference_requests_total", status=s) for s in STATUSES}
    assert requests["ok"] == 2 + 2
    assert requests["error"] == 1
    assert requests["timeout"] == 1
    assert requests["cancelled"] == 1
    assert requests["rejected"] == 2
    _check_reasons(samples)
    _check_tokens(samples, delivered)
    _check_phases(samples)
    assert value(samples, "telemetry_events_lost") == 0


STATUSES = ("ok", "error", "timeout", "cancelled", "rejected")


def _ask(node: Running, **body: Any) -> httpx.Response:
    asked = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": TOKENS} | body
    return httpx.post(f"{node.url}/v1/completions", json=asked, timeout=60)


def _finish_two(node: Running) -> int:
    """Finish one whole and one streamed answer."""
    assert _ask(node).json()["usage"]["completion_tokens"] == TOKENS
    assert list(stream(node.url, temperature=0, max_tokens=TOKENS))
    return 2 * TOKENS


def _send_too_long(node: Running) -> None:
    assert _ask(node, prompt="word " * 300).json()["error"]["code"] == "context_length_exceeded"


def _leave_in_the_middle(node: Running) -> int:
    """Leave after some tokens; the client's side does not know how many were delivered."""
    chunks = stream(node.url, temperature=0, max_tokens=200)
    for _ in range(3):
        next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    return 0


def _overfill(node: Running) -> None:
    """Overfill the queue: one request is served, one waits, one is refused."""
    running = stream(node.url, temperature=0, max_tokens=200)
    next(running)
    with ThreadPoolExecutor(2) as clients:
        asked = [clients.submit(_ask, node, max_tokens=40) for _ in range(2)]
        done, waiting = wait(asked, return_when=FIRST_COMPLETED)
        assert [one.result().status_code for one in done] == [429]
        assert list(running)
        assert [one.result().status_code for one in waiting] == [200]


def _run_out_of_time(node: Running) -> None:
    """Stop the engine for longer than the request may take."""
    chunks = stream(node.url, temperature=0, max_tokens=200)
    next(chunks)
    (child,) = psutil.Process(node.process.pid).children()
    child.suspend()
    assert list(chunks)[-1]["error"]["code"] == "deadline_exceeded"
    child.resume()


def _lose_the_engine(node: Running, model: Path) -> int:
    """Kill the engine after removing its model, so that no other can continue."""
    chunks = stream(node.url, temperature=0, max_tokens=200)
    next(chunks)
    model.unlink()
    (child,) = psutil.Process(node.process.pid).children()
    os.kill(child.pid, signal.SIGKILL)
    assert list(chunks)[-1]["error"]["code"] == "unavailable"
    return 0


def _settled(exporter: Running) -> Samples | None:
    samples = scrape(exporter.url)
    ended = value(samples, "inference_requests_total") == 9
    return samples if ended and value(samples, "inference_requests_in_flight") == 0 else None


def _check_reasons(samples: Samples) -> None:
    """Check that each admitted request has one finish reason."""
    finishes = value(samples, "inference_finish_total") or 0
    turned_away = 1
    assert finishes + turned_away == value(samples, "inference_requests_total")
    assert value(samples, "inference_finish_total", reason="length") == 4
    assert value(samples, "inference_finish_total", reason="cancelled") == 1
    assert value(samples, "inference_finish_total", reason="error") == 3


def _check_tokens(samples: Samples, delivered: int) -> None:
    """Check that generated tokens are those of finished requests, and delivered or discarded."""
    generated = value(samples, "inference_tokens_generated_total") or 0
    assert value(samples, "inference_request_output_tokens_sum") == generated
    discarded = value(samples, "inference_tokens_discarded_total") or 0
    assert delivered + 200 + 40 <= generated - discarded


def _check_phases(samples: Samples) -> None:
    """Check that queue, prefill and decode add up to the latency of admitted requests."""
    phases = sum(
        value(samples, f"inference_{phase}_seconds_sum") or 0
        for phase in ("queue", "prefill", "decode")
    )
    latency = value(samples, "inference_latency_seconds_sum") or 0
    assert abs(phases - latency) < 1e-6
    counts = {
        name: value(samples, f"{name}_count")
        for name in ("inference_queue_seconds", "inference_prefill_seconds")
    }
    assert set(counts.values()) == {8}
    assert (PREFIX + "inference_latency_seconds_count") in {name for name, _ in samples}
