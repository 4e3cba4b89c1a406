"""Describes a model's file before any engine runs: its header is read in a process of its own."""

import logging
import signal
import subprocess
from pathlib import Path
from typing import Final

import msgspec
import trio
from trio.abc import ReceiveStream

from node.engine.choice import Wanted, choose
from node.engine.facts import Facts
from node.engine.model_file import UnusableModelError, no_file
from node.engine.protocol import Described
from node.engine.reading import SECONDS
from shared.paths import readable
from shared.runtime.processes import PYTHON, open_process

_READER: Final = (*PYTHON, "-m", "node.engine.reading")
_OUTPUT_BYTES: Final = 2**20
_PATIENCE_SECONDS: Final = SECONDS + 15.0
"""The process ends by itself before that, unless the disk hangs."""
_KILLS: Final = (signal.SIGKILL, signal.SIGTERM)
"""Sent by the system when memory runs out, or by an operator: the file is not at fault."""

_log = logging.getLogger(__name__)


class _Answer(msgspec.Struct):
    """What the process writes: one of the two."""

    facts: Facts | None = None
    refused: str = ""


_decoder = msgspec.json.Decoder(_Answer)


async def describe(path: Path, wanted: Wanted, room_bytes: int | None = None) -> Described:
    """Return what the model at `path` is and how it will be held.

    Args:
        path: The file, or the first part of a split model.
        wanted: How to hold it.
        room_bytes: As for `choose`.

    Raises:
        UnusableModelError: No engine runs it, or the wanted one does not.
        OSError: No process, pipe or memory is available now, or the process was killed.
    """
    facts = await read_facts(path)
    described = choose(facts, wanted, path, room_bytes)
    if not wanted.context_length and described.context_length < facts.context_length:
        _log.warning(
            "%s gets %d of its %d positions of context, to save memory: set --context-length for "
            "another number",
            readable(path),
            described.context_length,
            facts.context_length,
        )
    return described


async def read_facts(path: Path) -> Facts:
    """Read a model's header in a process of its own, which may hang or die.

    Raises:
        UnusableModelError: The file does not exist, is damaged, or is not a whole model.
        OSError: No process, pipe or memory is available now, or the process was killed.
    """
    if "\0" in str(path):  # which no argument of a process may contain
        raise UnusableModelError(no_file(path))
    answer, errors, code = bytearray(), bytearray(), -1
    with trio.move_on_after(_PATIENCE_SECONDS) as patience:
        answer, errors, code = await _run(path)
    if patience.cancelled_caught:
        message = f"the header of {readable(path)} was not read within {_PATIENCE_SECONDS:g} s"
        raise UnusableModelError(f"{message}: try another disk")
    return _decode(answer, errors, code, path)


async def _run(path: Path) -> tuple[bytearray, bytearray, int]:
    """Return what the process wrote to its two outputs, and its exit code."""
    pipe, answer, errors = subprocess.PIPE, bytearray(), bytearray()
    async with (
        open_process(
            [*_READER, str(path)], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
        ) as process,
        trio.open_nursery() as nursery,
    ):
        for stream, into in ((process.stdout, answer), (process.stderr, errors)):
            nursery.start_soon(_collect, stream, into, name="output of the reader")
        code = await process.wait()
    return answer, errors, code


async def _collect(stream: ReceiveStream | None, into: bytearray) -> None:
    """Collect what a process writes, up to a limit; the rest is lost. Runs until its end."""
    if stream is None:
        return
    async with stream:
        async for received in stream:
            into += received[: _OUTPUT_BYTES - len(into)]


def _decode(answer: bytearray, errors: bytearray, code: int, path: Path) -> Facts:
    try:
        read = _decoder.decode(answer)
    except msgspec.DecodeError as error:
        _log.warning("reading %s failed: %s", readable(path), errors.decode(errors="replace"))
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        message = f"the process that read the header of {readable(path)} {how}"
        if -code in _KILLS:
            raise OSError(message) from error
        raise UnusableModelError(f"{message}: choose another model file") from error
    if read.facts is None:
        raise UnusableModelError(read.refused)
    return read.facts
