"""The command and the environment of a llama-server, from the settings and the model to load."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Final

from node.engine.protocol import Load
from shared.runtime.processes import PYTHON

_BUILT_IN: Final = (*PYTHON, "-m", "node.engine.llama_cpp.server")
_CHECKPOINTS: Final = 2
"""Copies of a slot's sliding window or recurrent state that are kept, so that a chat can continue
from its last turns; the server's default of 32 takes up to gigabytes."""
_VERBOSITY: Final = 4
"""Names the memory of each device; the next level logs prompts."""


@dataclass(frozen=True)
class LlamaOptions:
    """How to run the llama-server of a model."""

    directory: Path
    """The private directory for its socket; `Settings.check` limits the length of its path."""
    model_id: str
    """The model's name in log lines."""
    server: Path | None = None
    """The program; None for the server inside xllamacpp."""
    gpu_layers: int | None = None
    """Layers to place on GPUs; None for as many as fit."""
    arguments: tuple[str, ...] = ()
    """More flags for the program; they override those of the node."""
    device_names: Mapping[str, str] = field(default_factory=dict)
    """Names of remote devices by their endpoints."""

    @property
    def program(self) -> str:
        """The program, as an operator would name it."""
        return "the llama-server inside xllamacpp" if self.server is None else str(self.server)

    @property
    def package(self) -> str:
        """The installed package that contains the server and its version; empty for a program."""
        return "" if self.server else f"xllamacpp {metadata.version('xllamacpp')}"


def command(options: LlamaOptions, load: Load, socket: Path) -> list[str]:
    """Return the program and the flags that make it serve a model on a socket."""
    program = _BUILT_IN if options.server is None else (str(options.server.absolute()),)
    batch_tokens = load.batch_tokens
    if load.embeds:  # such models see a whole text at once, so it must fit in one batch
        batch_tokens = max(batch_tokens, load.context_length)
    values = {
        "--model": os.fsdecode(load.path),
        "--host": socket,
        "--parallel": load.slots,
        "--ctx-size": load.context_length * load.slots,
        "--threads": load.threads,
        "--threads-batch": load.threads,
        "--threads-http": 2 * load.slots + 4,  # one per stream, and some for short calls
        "--batch-size": batch_tokens,
        "--ubatch-size": batch_tokens,
        "--poll": 0,
        "--cache-ram": 0,  # each slot keeps its last prompt; further copies have no tight bound
        "--ctx-checkpoints": _CHECKPOINTS,
        "--verbosity": _VERBOSITY,
    }
    if options.gpu_layers is not None:
        values["--n-gpu-layers"] = options.gpu_layers
    if load.ranks:
        values["--pooling"] = "rank"
    switches = ["--log-prefix", "--jinja", "--no-webui", *(["--embeddings"] if load.embeds else [])]
    pairs = (text for name, value in values.items() for text in (name, str(value)))
    return [*program, *pairs, *switches, *options.arguments]


def environment(threads: int) -> dict[str, str]:
    """Return the server's environment: it starts no gdb, and its threads sleep while they wait.

    A single thread waits for no other. The setting would only delay its first token, by a sixth of
    a short prompt's time.
    """
    waiting = {"OMP_WAIT_POLICY": "passive"} if threads > 1 else {}
    return {**os.environ, "GGML_NO_BACKTRACE": "1"} | waiting
