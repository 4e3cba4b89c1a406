"""The node's models, from its settings, and the memory check for loading one."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.engine.protocol import Described
from node.engine.split_file import Part
from node.errors import StartupError
from node.serving.directory import find_models
from node.serving.downloads.source import HubFile, Source, parse_source
from shared.paths import readable

_NAMED: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})=(.+)", re.DOTALL)
_OTHER: Final = re.compile(r"[^\w.-]")
"""Characters that model names exclude; letters and digits of any script stay."""
_NAME_CHARACTERS: Final = 64
"""The longest name that fits in an advert (`node.mesh.messages`)."""
_DIGEST_BYTES: Final = 4
_ENGINE_BYTES: Final = 128 * 2**20
"""Memory of an engine besides weights and context: the interpreter, its libraries and the buffers
of an evaluation. Measured: 54 MB for the interpreter and its libraries. The rest is a guess that
leaves room for the buffers of a large model."""


@dataclass(frozen=True)
class Model:
    """One model that the node can serve."""

    model_id: str
    source: Source
    resident: bool
    """Whether it is loaded at the start and kept; otherwise it is loaded on request."""

    @property
    def place(self) -> str:
        """Its location, for people."""
        return readable(self.source) if isinstance(self.source, Path) else str(self.source)


def list_models(wanted: Iterable[str], directory: Path | None) -> list[Model]:
    """Return the named models, then the other models in the directory.

    Args:
        wanted: Paths or hub files, each optionally with its name in front, as `name=path`.
        directory: A directory of more GGUF files, searched once, including its folders.

    Raises:
        StartupError: Two models have the same name, a name refers to no file, or the directory
            cannot be read.
    """
    models: dict[str, Model] = {}
    for model in map(_named, wanted):
        other = models.setdefault(model.model_id, model)
        if other is not model:
            message = (
                f"{other.place} and {model.place} would both be called {model.model_id}: "
                "name one as --model=NAME=PATH"
            )
            raise StartupError(message)
    if directory is not None:
        _add_found(models, directory)
    if not models:
        raise StartupError("there is no model to serve: give --model or --models-dir")
    return list(models.values())


def name_model(source: Source) -> str:
    """Return a model's name, derived from its file.

    The name goes into metrics, messages and addresses. It contains only letters, digits, dots,
    dashes and underscores, and its length fits in an advert.
    """
    part = Part.read(source.name)
    stem = part.stem if part and part.number == 1 else source.stem
    return _plain(stem)


def find_shortage(described: Described, loaded_bytes: int, available_bytes: int) -> str:
    """Return why there is no room for a model; empty if there is.

    Args:
        described: The model, with the context length to use.
        loaded_bytes: Weights of the loaded models. Their files are in the page cache, which the
            system counts as available although they are in use.
        available_bytes: Memory that is available without swapping.
    """
    context_bytes = described.context_length * described.position_bytes
    needed = described.size_bytes + context_bytes + _ENGINE_BYTES
    room = max(0, available_bytes - loaded_bytes)
    if needed <= room:
        return ""
    return (
        f"it needs {_mebibytes(described.size_bytes)} of weights and {_mebibytes(context_bytes)} "
        f"for {described.context_length} positions of context, {_mebibytes(needed)} in all, and "
        f"{_mebibytes(room)} are free: unload a model, or give a smaller --context-length"
    )


def _named(text: str) -> Model:
    found = _NAMED.fullmatch(text)
    try:
        source = parse_source(found[2] if found else text)
    except ValueError as error:
        raise StartupError(f"--model: {error}") from error
    return Model(found[1] if found else name_model(source), source, resident=True)


def _add_found(models: dict[str, Model], directory: Path) -> None:
    """Add the directory's files, each under the first of its names that is unused."""
    try:
        files = find_models(directory)
    except OSError as error:
        message = f"--models-dir {readable(directory)} cannot be read: {error.strerror}"
        raise StartupError(message) from error
    for file in files:
        for name in _names(file, file.relative_to(directory)):
            other = models.setdefault(name, Model(name, file, resident=False))
            if other.source == file or _is_same(other.source, file):
                break


def _names(file: Path, relative: Path) -> Iterator[str]:
    """Yield the possible names of a file: its own, with its folders', with a digest."""
    name = name_model(file)
    yield name
    for folder in reversed(relative.parts[:-1]):
        name = _plain(f"{folder}-{name}")
        yield name
    yield _with_digest(name, os.fsencode(relative))


def _is_same(source: Source, file: Path) -> bool:
    """Return whether a model is this file; a hub file of the same name counts as the same."""
    try:
        return isinstance(source, HubFile) or source.samefile(file)
    except OSError:
        return False


def _plain(stem: str) -> str:
    """Convert a file name to a model name; a long one is cut and ends in a digest of the whole."""
    text = unicodedata.normalize("NFC", readable(stem))
    name = _OTHER.sub("-", text) or "model"
    return name if len(name) <= _NAME_CHARACTERS else _with_digest(name, os.fsencode(stem))


def _with_digest(name: str, whole: bytes) -> str:
    digest = hashlib.blake2b(whole, digest_size=_DIGEST_BYTES).hexdigest()
    return f"{name[: _NAME_CHARACTERS - len(digest) - 1]}-{digest}"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
