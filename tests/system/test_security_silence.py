"""Prompts, answers and keys appear in no log, metric or journal."""

import contextlib
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from node.demo import MODEL_PATH
from tests.processes import Pair, Running, wait_for

PROMPT = "the-marked-prompt-of-a-client"
KEY = "sk-the-marked-key-of-a-client"
WRONG = "sk-the-wrong-key-of-somebody"
TOKEN = "the-marked-token-of-prometheus"
SECRETS = (PROMPT, KEY, WRONG, TOKEN)
BEARER = {"Authorization": f"Bearer {KEY}"}


def succeed(node: Running) -> None:
    """Send each kind of request that is answered."""
    for body in ({"prompt": PROMPT}, {"prompt": PROMPT, "stream": True, "stop": [PROMPT]}):
        asked = {**body, "max_tokens": 4, "user": PROMPT}
        httpx.post(f"{node.url}/v1/completions", json=asked, headers=BEARER).raise_for_status()
    said = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4}
    httpx.post(f"{node.url}/v1/chat/completions", json=said, headers=BEARER).raise_for_status()


def fail(node: Running) -> None:
    """Send requests that are refused for different reasons."""
    url = f"{node.url}/v1/completions"
    for body in (
        {"prompt": [PROMPT, 1]},
        {"prompt": PROMPT, PROMPT: 1},
        {"prompt": PROMPT, "model": PROMPT},
        {"prompt": PROMPT + "\0"},
        {"prompt": PROMPT * 1000},
        PROMPT,
    ):
        assert httpx.post(url, json=body, headers=BEARER).status_code in (400, 404)
    assert httpx.post(url, content=b'{"prompt": "' + PROMPT.encode(), headers=BEARER).is_error
    assert httpx.get(f"{node.url}/{PROMPT}?{PROMPT}", headers=BEARER).status_code == 404
    wrong = {"Authorization": f"Bearer {WRONG}"}
    assert httpx.post(url, json={"prompt": PROMPT}, headers=wrong).status_code == 401
    named = {**BEARER, "X-Request-ID": f"{PROMPT}!", PROMPT: PROMPT}
    assert httpx.post(url, json={"prompt": PROMPT, "n": 0}, headers=named).status_code == 400


def break_protocol(node: Running) -> None:
    """Send bytes that are not HTTP, with a key in them."""
    parts = urlsplit(node.url)
    for sent in (f"GET /{PROMPT} HTTP/1.1\r\n{KEY}\0\r\n\r\n", f"{PROMPT}\r\n{KEY}\r\n\r\n"):
        with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
            connection.sendall(sent.encode())
            with contextlib.suppress(ConnectionError):
                while connection.recv(65536):
                    pass


def crash(node: Running) -> None:
    """Kill the engine in the middle of an answer, then send another request."""
    url = f"{node.url}/v1/completions"
    asked = {"model": "slow", "prompt": PROMPT, "stream": True, "max_tokens": 200}
    with httpx.Client(headers=BEARER, timeout=60) as bearing:
        with bearing.stream("POST", url, json=asked) as response:
            assert response.status_code == 200
            for engine in psutil.Process(node.process.pid).children():
                engine.kill()
            assert response.read()
        for model in ("demo", "slow"):
            again = {"model": model, "prompt": PROMPT, "max_tokens": 2}
            wait_for(lambda: bearing.post(url, json=again).is_success)  # noqa: B023


def leave(node: Running) -> None:
    """Leave in the middle of an answer."""
    with httpx.stream(
        "POST",
        f"{node.url}/v1/completions",
        json={"prompt": PROMPT, "stream": True},
        headers=BEARER,
    ) as response:
        next(response.iter_raw())


@pytest.mark.slow
def test_nothing_is_told(pair: Pair, tmp_path: Path, slow_model: Path) -> None:
    """No text and no key is logged in any of these cases, even at level debug."""
    keys, tokens = tmp_path / "keys", tmp_path / "tokens"
    keys.write_text(KEY)
    tokens.write_text(TOKEN)
    models = f"demo={MODEL_PATH},slow={slow_model}"
    with (
        pair.exporter(f"--metrics-token-file={tokens}", "--log-level=debug") as exporter,
        pair.node(f"--model={models}", f"--api-key-file={keys}", "--log-level=debug") as node,
    ):
        for act in (succeed, fail, break_protocol, crash, leave, succeed):
            act(node)
        bearing = {"Authorization": f"Bearer {TOKEN}"}
        openmetrics = {**bearing, "Accept": "application/openmetrics-text"}
        for headers in (bearing, openmetrics):
            shown = httpx.get(f"{exporter.url}/metrics", headers=headers)
            assert "inference_requests_total" in shown.text
            assert re.search(r'inference_resumed_total\{.*reason="crashed".*\} 1\b', shown.text)
            told = shown.text + httpx.get(f"{exporter.url}/health", headers=bearing).text
            assert not [secret for secret in SECRETS if secret in told]
        logs = [node.log, exporter.log]
    kept = [file for file in (pair.directory / "state").rglob("*") if file.is_file()]
    assert any(file.stat().st_size for file in kept)
    for file in [*logs, *kept]:
        written = file.read_bytes()
        assert not [secret for secret in SECRETS if secret.encode() in written], file
    assert "DEBUG" in node.log.read_text()
