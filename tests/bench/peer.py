"""Runs the server of llama-cpp-python, the usual way to serve a GGUF file from Python, as a peer.

Its installation compiles for minutes, so it is not a development requirement: `just peer` installs
it into a separate environment.
"""

import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from tests.bench.processes import REPOSITORY, Service, ended
from tests.processes import free_port, wait_for

PYTHON: Final = REPOSITORY / ".local" / "peer" / "bin" / "python"
_HOST: Final = "127.0.0.1"
_READY_SECONDS: Final = 60.0


def is_installed() -> bool:
    """Return whether the peer is installed."""
    return PYTHON.exists()


@contextmanager
def run_peer(model: Path, context_tokens: int, threads: int) -> Iterator[Service]:
    """Run the server until the block ends; entered when the model is loaded."""
    port = free_port()
    flags = {
        "model": model,
        "n_ctx": context_tokens,
        "n_threads": threads,
        "n_threads_batch": threads,
        "host": _HOST,
        "port": port,
        "verbose": False,
    }
    process = subprocess.Popen(
        [PYTHON, "-m", "llama_cpp.server", *(f"--{name}={value}" for name, value in flags.items())],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with ended(process):
        wait_for(lambda: _answers(port), _READY_SECONDS)
        yield Service(psutil.Process(process.pid), _HOST, port)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{_HOST}:{port}/v1/models", timeout=1):
            return True
    except (urllib.error.URLError, TimeoutError):
        return False
