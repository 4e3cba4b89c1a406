"""File systems for a state directory: small, read-only, covered or frozen on demand."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_MEGABYTES: Final = 64
"""Room for a full log of the journal and a snapshot."""


def why_no_mounts(*tools: str) -> str:
    """Return why file systems cannot be mounted here; empty if they can."""
    if os.geteuid() != 0:
        return "mounting a file system needs root"
    missing = [tool for tool in ("mount", *tools) if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is not installed"
    return ""


@contextlib.contextmanager
def mounted_memory(directory: Path) -> Iterator[Path]:
    """Mount a small file system in memory."""
    directory.mkdir(parents=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={_MEGABYTES}m", "tmpfs", str(directory))
    try:
        yield directory
    finally:
        _run("umount", "--lazy", str(directory))


@contextlib.contextmanager
def mounted_disk(directory: Path) -> Iterator[Path]:
    """Mount a small ext4 file system from a file."""
    image = directory.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(_MEGABYTES * 2**20)
    _run("mkfs.ext4", "-q", str(image))
    directory.mkdir(parents=True)
    _run("mount", "-o", "loop", str(image), str(directory))
    try:
        yield directory
    finally:
        _run("umount", "--lazy", str(directory))


@contextlib.contextmanager
def filled(directory: Path) -> Iterator[None]:
    """Keep a file system full until the block ends."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def covered_read_only(directory: Path) -> Iterator[None]:
    """Cover a path with a read-only file system until the block ends.

    The kernel refuses to make a file system read-only while a file on it is open for writing.
    """
    _run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(directory))
    try:
        yield
    finally:
        _run("umount", str(directory))


@contextlib.contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Make an unused mounted file system read-only until the block ends."""
    _run("mount", "-o", "remount,ro", str(directory))
    try:
        yield
    finally:
        _run("mount", "-o", "remount,rw", str(directory))


@contextlib.contextmanager
def frozen(directory: Path) -> Iterator[None]:
    """Let every write to a mounted disk hang until the block ends."""
    _run("fsfreeze", "--freeze", str(directory))
    try:
        yield
    finally:
        _run("fsfreeze", "--unfreeze", str(directory))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)
