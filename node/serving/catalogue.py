"""Which models the node has, by what the settings name, and whether there is memory for one."""

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
"""What no model's name has; letters and digits of any script stay."""
_NAME_CHARACTERS: Final = 64
"""What a name may have in an advert (`node.mesh.messages`)."""
_DIGEST_BYTES: Final = 4
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

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return readable(self.source) if isinstance(self.source, Path) else str(self.source)


def list_models(wanted: Iterable[str], directory: Path | None) -> list[Model]:
    """Return the models that are named, then those in the directory that are not.

    Args:
        wanted: Paths or files of a hub, each perhaps with the name to serve it by before it, as
            `name=path`.
        directory: Where further GGUF files are, looked for once, also in its folders.

    Raises:
        StartupError: Two are of one name, one names no file, or the directory cannot be read.
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
    """Return what a model is called after its file.

    The name goes into metrics, messages and addresses: it has letters, digits, dots, dashes and
    underscores only, and a length that adverts hold.
    """
    part = Part.read(source.name)
    stem = part.stem if part and part.number == 1 else source.stem
    return _plain(stem)


def find_shortage(described: Described, loaded_bytes: int, available_bytes: int) -> str:
    """Return why there is no room for a model, or nothing.

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
    return Model(found[1] if found else name_model(source), source, resident=True)


def _add_found(models: dict[str, Model], directory: Path) -> None:
    """Add the directory's files, each by the first of its names that no other file has."""
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
    """Yield the names that a file may have: its own, with its folders', with a digest's."""
    name = name_model(file)
    yield name
    for folder in reversed(relative.parts[:-1]):
        name = _plain(f"{folder}-{name}")
        yield name
    yield _with_digest(name, os.fsencode(relative))


def _is_same(source: Source, file: Path) -> bool:
    """Whether a model is this file, or a hub's file of its name, which is taken to be the same."""
    try:
        return isinstance(source, HubFile) or source.samefile(file)
    except OSError:
        return False


def _plain(stem: str) -> str:
    """Write a file's name as a model's; one that is too long ends in a digest of the whole."""
    text = unicodedata.normalize("NFC", readable(stem))
    name = _OTHER.sub("-", text) or "model"
    return name if len(name) <= _NAME_CHARACTERS else _with_digest(name, os.fsencode(stem))


def _with_digest(name: str, whole: bytes) -> str:
    digest = hashlib.blake2b(whole, digest_size=_DIGEST_BYTES).hexdigest()
    return f"{name[: _NAME_CHARACTERS - len(digest) - 1]}-{digest}"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
