"""Clients that read one streamed answer at as little cost as possible."""

import json
import select
import socket
import subprocess
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from tests.bench.processes import Service
from tests.grpc_client import Client, ask

_ANSWER_SECONDS: Final = 60.0
_READ_BYTES: Final = 65536
_EVENT: Final = b"data: "
_DONE: Final = b"data: [DONE]"


class Answer(NamedTuple):
    """One answer as its reader received it; a peer may end it early."""

    tokens: int
    first_seconds: float
    seconds: float
    cpu_seconds: float = 0.0
    """CPU seconds of the server's own process meanwhile, without an engine child."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second after the first token."""
        return (self.tokens - 1) / (self.seconds - self.first_seconds)


Ask = Callable[[str], Answer]
"""Sends a prompt and waits for the whole answer."""


def bare_asker(bare: "subprocess.Popen[str]", tokens: int) -> Ask:
    """Ask `tests.bench.bare_engine`."""
    return partial(_ask_bare, bare, tokens)


def http_asker(server: Service, tokens: int) -> Ask:
    """Ask a server over OpenAI's API, on a new connection each time."""
    return partial(_ask_http, server, tokens)


def grpc_asker(server: Service, client: Client, tokens: int) -> Ask:
    """Ask a node with grpcio, on an open connection."""
    return partial(_ask_grpc, server, client, tokens)


def _ask_bare(bare: "subprocess.Popen[str]", tokens: int, prompt: str) -> Answer:
    assert bare.stdin is not None
    assert bare.stdout is not None
    bare.stdin.write(json.dumps({"prompt": prompt, "max_tokens": tokens}) + "\n")
    bare.stdin.flush()
    if not select.select([bare.stdout], [], [], _ANSWER_SECONDS)[0]:
        raise TimeoutError(f"the engine alone did not answer within {_ANSWER_SECONDS} s")
    return Answer(**json.loads(bare.stdout.readline()))


def _ask_http(server: Service, tokens: int, prompt: str) -> Answer:
    asked = _request(prompt, tokens)
    received = b""
    first_seconds = 0.0
    cpu_before = server.cpu_seconds()
    began = time.perf_counter()
    with socket.create_connection((server.host, server.port), _ANSWER_SECONDS) as connection:
        connection.sendall(asked)
        while _DONE not in received[-4 * len(_DONE) :]:
            if not (read := connection.recv(_READ_BYTES)):
                raise RuntimeError(f"the stream was cut short after {received[-200:]!r}")
            received += read
            if not first_seconds and _EVENT in received:
                first_seconds = time.perf_counter() - began
        seconds = time.perf_counter() - began
    cpu_seconds = server.cpu_seconds() - cpu_before
    return Answer(_count_tokens(received), first_seconds, seconds, cpu_seconds)


def _ask_grpc(server: Service, client: Client, tokens: int, prompt: str) -> Answer:
    asked = ask(prompt=prompt, max_tokens=tokens, seed=1)
    first_seconds = 0.0
    cpu_before = server.cpu_seconds()
    began = time.perf_counter()
    came = 0
    for message in client.inference.GenerateStream(asked, timeout=_ANSWER_SECONDS):
        first_seconds = first_seconds or time.perf_counter() - began
        came += message.ending.usage.generated_tokens  # only the last message has it
    seconds = time.perf_counter() - began
    return Answer(came, first_seconds, seconds, server.cpu_seconds() - cpu_before)


def _request(prompt: str, tokens: int) -> bytes:
    asked = {
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "seed": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body = json.dumps(asked).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: node\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _body(received: bytes) -> bytes:
    """Remove the head of a response, and the chunk lengths if there are any, from its body."""
    head, _, rest = received.partition(b"\r\n\r\n")
    if b"chunked" not in head:
        return rest
    body = b""
    while rest:
        length, _, rest = rest.partition(b"\r\n")
        size = int(length or b"0", 16)
        body += rest[:size]
        rest = rest[size + 2 :]
    return body


def _count_tokens(received: bytes) -> int:
    """Return the number of tokens of a stream: its reported usage, or else its number of events."""
    chunks = [
        json.loads(line.removeprefix(_EVENT))
        for line in _body(received).splitlines()
        if line.startswith(_EVENT) and not line.startswith(_DONE)
    ]
    if usage := chunks[-1].get("usage"):
        return int(usage["completion_tokens"])
    return sum(bool(chunk["choices"][0]["text"]) for chunk in chunks)
