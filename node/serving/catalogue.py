"""The node's models, from its settings, and the memory check for loading one."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.engine.choice import Wanted
from node.engine.protocol import Described
from node.engine.split_file import Part
from node.engine.upstream.address import Address, is_address, parse_address
from node.errors import StartupError
from node.machine import mebibytes
from node.serving.directory import find_models
from node.serving.downloads.source import HubFile, parse_source
from node.serving.entry import read_entry
from shared.paths import readable

_OTHER: Final = re.compile(r"[^\w.-]")
"""Characters that model names exclude; letters and digits of any script stay."""
_NAME_CHARACTERS: Final = 64
"""The longest name that fits in an advert (`node.mesh.messages`)."""
_DIGEST_BYTES: Final = 4
_AS_FITS: Final = Wanted()

Source = Path | HubFile | Address


@dataclass(frozen=True)
class Model:
    """One model that the node can serve."""

    model_id: str
    source: Source
    resident: bool
    """Whether it is loaded at the start and kept; otherwise it is loaded on request."""
    wanted: Wanted = _AS_FITS
    """How it is to be held."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is in an engine that others run."""
        return isinstance(self.source, Address)

    @property
    def place(self) -> str:
        """Its location, for people."""
        return readable(self.source) if isinstance(self.source, Path) else str(self.source)


def list_models(
    named: Iterable[str], directory: Path | None, default: Wanted = _AS_FITS
) -> list[Model]:
    """Return the named models, then the other models in the directory.

    Args:
        named: Paths or hub files, each as `node.serving.entry` reads it.
        directory: A directory of more GGUF files, searched once, including its folders.
        default: How to hold a model that says nothing else.

    Raises:
        StartupError: Two models have the same name, a name refers to no file, or the directory
            cannot be read.
    """
    models: dict[str, Model] = {}
    for model in (_named(text, default) for text in named):
        other = models.setdefault(model.model_id, model)
        if other is not model:
            message = (
                f"{other.place} and {model.place} would both be called {model.model_id}: "
                "name one as --model=NAME=PATH"
            )
            raise StartupError(message)
    if directory is not None:
        _add_found(models, directory, default)
    if not models:
        raise StartupError("there is no model to serve: set --model or --models-dir")
    return list(models.values())


def name_model(source: Source) -> str:
    """Return a model's name, derived from its file.

    The name goes into metrics, messages and addresses. It contains only letters, digits, dots,
    dashes and underscores, and its length fits in an advert.
    """
    if isinstance(source, Address):
        return _plain(source.name)
    part = Part.read(source.name)
    stem = part.stem if part and part.number == 1 else source.stem
    return _plain(stem)


def find_shortage(described: Described, room_bytes: int) -> str:
    """Return why there is no room for a model; empty if there is.

    Args:
        described: The model, with its slots and context.
        room_bytes: Free memory that no loaded model uses.
    """
    slots = f" in each of {described.slots} slots" if described.slots > 1 else ""
    context_bytes = described.slots * described.context_length * described.position_bytes
    needed = described.needed_bytes
    if needed <= room_bytes:
        return ""
    fewer = "set fewer --slots, or" if described.slots > 1 else "or set"
    return (
        f"it needs {mebibytes(described.size_bytes)} of weights, {mebibytes(context_bytes)} "
        f"for {described.context_length} positions of context{slots} and "
        f"{mebibytes(described.buffer_bytes)} of buffers, {mebibytes(needed)} in all, and "
        f"{mebibytes(room_bytes)} are free: unload a model, {fewer} a smaller --context-length"
    )


def _named(text: str, default: Wanted) -> Model:
    try:
        entry = read_entry(text, default)
        source: Source = (
            parse_address(entry.source, entry.key_file, entry.ca_file)
            if is_address(entry.source)
            else parse_source(entry.source)
        )
    except ValueError as error:
        raise StartupError(f"--model: {error}") from error
    return Model(entry.name or name_model(source), source, resident=True, wanted=entry.wanted)


def _add_found(models: dict[str, Model], directory: Path, default: Wanted) -> None:
    """Add the directory's files, each under the first of its names that is unused."""
    try:
        files = find_models(directory)
    except OSError as error:
        message = f"--models-dir {readable(directory)} cannot be read: {error.strerror}"
        raise StartupError(message) from error
    for file in files:
        for name in _names(file, file.relative_to(directory)):
            other = models.setdefault(name, Model(name, file, resident=False, wanted=default))
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
    """Return whether a model is this file; one elsewhere of the same name counts as the same."""
    try:
        return not isinstance(source, Path) or source.samefile(file)
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
