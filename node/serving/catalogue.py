"""Which models the node has, by what the settings name, and whether there is memory for one."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.engine.protocol import Described
from node.errors import StartupError
from node.serving.downloads.source import Source, parse_source

_NAMED: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})=(.+)")
_ENGINE_BYTES: Final = 128 * 2**20
"""What an engine takes beside weights and context: the interpreter, its libraries and the buffers
of an evaluation. Measured 54 MB for the interpreter and its libraries; the rest is a guess that
leaves room for the buffers of a large model."""


@dataclass(frozen=True)
class Model:
    """One model that the node can serve."""

    model_id: str
    source: Source
    resident: bool
    """Whether it is loaded at the start and kept; else it is loaded when asked for."""


def list_models(wanted: Iterable[str], directory: Path | None) -> list[Model]:
    """Give the models that are named, then those in the directory that are not.

    Args:
        wanted: Paths or files of a hub, each perhaps with the name to serve it by before it, as
            `name=path`.
        directory: Where further GGUF files are, looked for once.

    Raises:
        StartupError: Two are of one name, one names no file, or the directory cannot be read.
    """
    models: dict[str, Model] = {}
    for model in [*map(_named, wanted), *_found(directory)]:
        other = models.setdefault(model.model_id, model)
        if other is model or not model.resident:
            continue
        message = (
            f"{other.source} and {model.source} would both be called {model.model_id}: "
            "name one as --model=NAME=PATH"
        )
        raise StartupError(message)
    if not models:
        raise StartupError("there is no model to serve: give --model or --models-dir")
    return list(models.values())


def find_shortage(described: Described, loaded_bytes: int, available_bytes: int) -> str:
    """Say why there is no room for a model, or nothing.

    Args:
        described: The model, with the context length to be used.
        loaded_bytes: Weights of the models that are loaded. Their files are in the cache, which
            the system counts as available although they are in use.
        available_bytes: What could be had without swapping.
    """
    context_bytes = described.context_length * described.position_bytes
    needed = described.size_bytes + context_bytes + _ENGINE_BYTES
    room = max(0, available_bytes - loaded_bytes)
    if needed <= room:
        return ""
    return (
        f"it takes {_mebibytes(described.size_bytes)} of weights and {_mebibytes(context_bytes)} "
        f"for {described.context_length} positions of context, {_mebibytes(needed)} in all, and "
        f"{_mebibytes(room)} are free: unload a model, or give a smaller --context-length"
    )


def _named(text: str) -> Model:
    found = _NAMED.fullmatch(text)
    try:
        source = parse_source(found[2] if found else text)
    except ValueError as error:
        raise StartupError(f"--model: {error}") from error
    return Model(found[1] if found else _name(source), source, resident=True)


def _found(directory: Path | None) -> Iterator[Model]:
    if directory is None:
        return
    try:
        files = sorted(directory.glob("*.gguf"))
        if not directory.is_dir():
            raise NotADirectoryError(f"{directory} is no directory")
    except OSError as error:
        raise StartupError(f"--models-dir cannot be read: {error}") from error
    for file in files:
        yield Model(_name(file), file, resident=False)


def _name(source: Source) -> str:
    """Name a model after its file; the name goes into metrics, so that it is kept plain."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", source.stem)[:64] or "model"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
