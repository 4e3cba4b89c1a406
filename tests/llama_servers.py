"""llama-server processes for tests, and requests to them."""

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from node.engine.llama_cpp.options import LlamaOptions
from node.engine.llama_cpp.process import LlamaServer, open_llama_server
from node.engine.protocol import Finished, Generate, Load, Loaded, LoadFailed, Result, Sampled
from node.requests.request import Prompt, Sampling

COMPILED: Final = Path(__file__).parents[1] / ".local/llama-server/bin/llama-server"
SERVERS: Final = (
    pytest.param(None, id="wheel"),
    pytest.param(
        COMPILED,
        id="compiled",
        marks=pytest.mark.skipif(
            not COMPILED.exists(), reason="no llama-server is compiled: run `just llama-server`"
        ),
    ),
)
"""Both ways to run llama-server, as parameters of a test."""
GREEDY: Final = Sampling(0.0, 40, 0.95, 1.0, 1)
DRAWN: Final = Sampling(1.0, 40, 0.95, 1.1, 1)


def loading(model: Path, **changes: Any) -> Load:
    """Return the command that loads a model in small."""
    values = {"context_length": 256, "threads": 1, "batch_tokens": 64} | changes
    return Load(os.fsencode(model), **values)


@asynccontextmanager
async def running(
    directory: Path, model: Path, server: Path | None = None, **changes: Any
) -> AsyncIterator[LlamaServer]:
    """Yield a llama-server that has loaded a model."""
    async with open_llama_server(LlamaOptions(directory, "tiny", server)) as link:
        await link.send(loading(model, **changes))
        loaded = await link.receive()
        assert isinstance(loaded[0], Loaded), loaded
        yield link


async def failure(options: LlamaOptions, load: Load) -> str:
    """Return why a model cannot be loaded."""
    async with open_llama_server(options) as link:
        await link.send(load)
        (failed,) = await link.receive()
        assert isinstance(failed, LoadFailed), failed
        assert await link.receive() == []
        return failed.message


def generating(request: int, prompt: Prompt = "hello", tokens: int = 8, **changes: Any) -> Generate:
    """Return a request, greedy by default."""
    return Generate(request, prompt, tokens, **{"sampling": GREEDY, **changes})


async def answer(link: LlamaServer, command: Generate) -> list[Result]:
    """Return all results of one request, which is alone."""
    await link.send(command)
    results: list[Result] = []
    while not results or not isinstance(results[-1], Finished):
        received = await link.receive()
        assert received, f"{await link.wait_epitaph()}: {list(link.last_lines)}"
        results += received
    return results


def tokens_in(results: Iterable[Result]) -> list[int]:
    """Return the tokens of an answer."""
    return [result.token for result in results if isinstance(result, Sampled)]


def text_in(results: Iterable[Result]) -> str:
    """Return the text of an answer."""
    return b"".join(result.text for result in results if isinstance(result, Sampled)).decode()
