"""One attempt to load a model: find the file, describe it, check the memory, load it."""

import os
from contextlib import closing
from pathlib import Path

import trio

from node.engine import protocol
from node.engine.link import Link
from node.engine.model_file import UnusableModelError
from node.engine.options import EngineOptions, Watcher
from node.engine.place import Place
from node.errors import StartupError, UnavailableError
from node.telemetry.progress import Progress


class CannotLoadError(UnavailableError):
    """The model cannot be loaded as it is: a retry would fail in the same way."""


class LostLoadError(UnavailableError):
    """A process ended while the model was loaded, and nothing says that its file is at fault."""


class Loading:
    """One attempt; its steps are called in order.

    Args:
        model_id: The model's name in events.
        options: How to load it.
        watcher: Decides about memory, and is notified of the progress.
    """

    def __init__(self, model_id: str, options: EngineOptions, watcher: Watcher) -> None:
        self._model_id = model_id
        self._options = options
        self._watcher = watcher
        self._path = Path()
        self._version: tuple[int, ...] = ()
        self._began = trio.current_time()

    @property
    def seconds(self) -> float:
        """Seconds since the attempt began, without a download."""
        return trio.current_time() - self._began

    async def describe(self) -> protocol.Described:
        """Describe the model's file.

        Raises:
            CannotLoadError: The file cannot be used.
            OSError: No process can be started to read it.
        """
        try:
            self._path = await self._options.locate()
            self._began = trio.current_time()
            self._version = _version(self._path)
            return await self._options.describe(self._path)
        except (StartupError, UnusableModelError) as error:
            raise CannotLoadError(str(error)) from error

    def find_place(self, described: protocol.Described) -> Place:
        """Return where the described model goes: to this node, if it fits.

        Raises:
            InsufficientMemoryError: There is no memory for it.
            HeldElsewhereError: Another node serves it.
        """
        if shortage := self._watcher.find_room(described):
            return self._watcher.split(described, self._model_id, shortage)
        return Place.whole(described)

    async def load(
        self, link: Link, described: protocol.Described, place: Place
    ) -> protocol.Loaded:
        """Have the engine load the described model.

        Raises:
            CannotLoadError: The engine cannot load the file.
            LostLoadError: The engine ended.
            UnavailableError: It took too long, or the file was replaced meanwhile.
        """
        options = self._options
        progress = Progress(self._model_id, "read", self._watcher.emit)
        with trio.move_on_after(options.load_seconds), closing(progress):
            await link.send(
                protocol.Load(
                    os.fsencode(self._path),
                    described.context_length,
                    options.threads,
                    options.batch_tokens[described.engine],
                    described.slots,
                    described.embeds,
                    described.ranks,
                )
            )
            is_elsewhere = described.engine == "upstream"
            loaded = await self._wait_loaded(link, progress, place, is_elsewhere=is_elsewhere)
            if _version(self._path) != self._version:
                raise UnavailableError(f"{options.place} was replaced while it was loaded")
            return loaded
        raise UnavailableError(f"{options.place} was not loaded within {options.load_seconds:g} s")

    async def _wait_loaded(
        self, link: Link, progress: Progress, place: Place, *, is_elsewhere: bool
    ) -> protocol.Loaded:
        while results := await link.receive():
            for result in results:
                match result:
                    case protocol.Read(done, total):
                        progress.note(done, total)
                    case protocol.Loaded():
                        return result
                    case protocol.LoadFailed(message) if place.stages:
                        raise UnavailableError(message)  # perhaps a worker's fault
                    case protocol.LoadFailed(message):
                        raise CannotLoadError(message)
        epitaph = await link.wait_epitaph()
        if is_elsewhere:
            raise UnavailableError(epitaph)
        raise LostLoadError(
            f"{epitaph} while it loaded {self._options.place}: "
            "is there memory for it, and is the file complete?"
        )


def _version(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is replaced or written; () if it does not exist."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
