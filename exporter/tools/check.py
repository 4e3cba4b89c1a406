"""The subcommand `check`: inspect settings and directories without changing anything."""

import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from exporter.errors import ExporterError
from exporter.ingest.batches import Accepted, decode_batch
from exporter.journal.changes import BATCH, unpack_change
from exporter.journal.records import (
    LogReader,
    log_generations,
    log_path,
    read_snapshot,
    snapshot_generations,
    snapshot_path,
)
from exporter.journal.recovery import CRASHES
from exporter.journal.snapshot import UnreadableSnapshotError, restore_into
from exporter.metrics.conditions import WebCondition
from exporter.metrics.state import State
from exporter.settings import ExporterSettings
from exporter.web.registry import open_registry
from exporter.web.web_file import FollowedWeb
from shared.runtime.token_file import TokenFileError, read_tokens

ABOUT: Final = """Say whether an exporter could start with these settings.

Takes the exporter's own flags, looks at its directories, and changes nothing; a running exporter is
not disturbed. One line for each thing looked at; exit code 0 if all is well, 1 if something is not,
2 for bad usage."""


class _FaultError(ExporterError):
    """Something is not as it should be."""


def check(settings: ExporterSettings) -> int:
    """Print one line per inspected item, and return the exit code."""
    faults = 0
    looks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("settings", lambda: "sound"),
        ("runtime-dir", lambda: _look_at_runtime(settings.runtime_dir)),
        ("state-dir", lambda: _look_at_state(settings.state_dir)),
        ("metrics-token-file", lambda: _look_at_tokens(settings.metrics_token_file)),
        ("web-config-file", lambda: _look_at_web_config(settings.web_config_file)),
        ("collectors", lambda: _look_at_collectors(settings.collectors)),
        *((path.name, _reader(path, settings)) for path in _files(settings.state_dir)),
    )
    for name, look in looks:
        try:
            sys.stdout.write(f"ok     {name}: {look()}\n")
        except (ExporterError, TokenFileError, UnreadableSnapshotError, OSError) as error:
            faults += 1
            sys.stdout.write(f"failed {name}: {error}\n")
    return 1 if faults else 0


def _look_at_runtime(directory: Path) -> str:
    if not directory.exists():
        return _to_be_made(directory)
    status = directory.stat()
    if status.st_uid != os.getuid():
        raise _FaultError(f"{directory} belongs to another user")
    if status.st_mode & 0o022:
        raise _FaultError(f"{directory} can be written by others")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise _FaultError(f"{directory} cannot be written")
    return f"{directory}{_held(directory / 'exporter.lock')}"


def _look_at_state(directory: Path) -> str:
    if not directory.exists():
        return _to_be_made(directory)
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise _FaultError(f"{directory} cannot be written: counts would not survive a restart")
    logs, snapshots = log_generations(directory), snapshot_generations(directory)
    held = _held(directory / "state.lock")
    return f"{directory} holds {len(logs)} logs and {len(snapshots)} snapshots{held}"


def _look_at_tokens(path: Path | None) -> str:
    if path is None:
        return "none: anyone who reaches the metrics can read them"
    tokens = read_tokens("--metrics-token-file", path)
    return f"{path} holds {len(tokens)} tokens"


def _look_at_web_config(path: Path | None) -> str:
    if path is None:
        return "none: plain HTTP without passwords"
    web = FollowedWeb(path, WebCondition()).current
    scheme = "HTTPS" if web.tls else "plain HTTP"
    users = "with passwords" if web.passwords else "without passwords"
    clients = ", client certificates required" if web.requires_client else ""
    return f"{path} sets {scheme} {users}{clients}"


def _look_at_collectors(names: tuple[str, ...]) -> str:
    others = open_registry(State(), names).others
    return ", ".join(others)


def _to_be_made(directory: Path) -> str:
    above = next(parent for parent in directory.absolute().parents if parent.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        raise _FaultError(f"{directory} is missing and cannot be created in {above}")
    return f"{directory} is missing and would be made"


def _held(lock: Path) -> str:
    """Describe the exporter that holds a lock, without touching it."""
    try:
        inode = lock.stat().st_ino
        owners = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return ""
    held = [fields[4] for fields in owners if fields[5].rpartition(":")[2] == str(inode)]
    return f", in use by process {held[0]}" if held else ""


def _files(directory: Path) -> Iterator[Path]:
    if os.access(directory, os.R_OK | os.X_OK):
        yield from (snapshot_path(directory, n) for n in snapshot_generations(directory)[-1:])
        yield from (log_path(directory, n) for n in log_generations(directory))


def _reader(path: Path, settings: ExporterSettings) -> Callable[[], str]:
    if path.suffix == ".log":
        return lambda: _look_at_log(path)
    return lambda: _look_at_snapshot(path, settings)


def _look_at_snapshot(path: Path, settings: ExporterSettings) -> str:
    state = State(settings.series_budget, settings.objectives, settings.buckets)
    restore_into(state, read_snapshot(path))
    return f"{len(state.nodes)} nodes"


def _look_at_log(path: Path) -> str:
    records = events = 0
    with path.open("rb", buffering=0) as file:
        reader = LogReader(path, file)
        for offset, record in reader:
            records += 1
            try:
                kind, _, content = unpack_change(record)
            except struct.error as error:
                raise _FaultError(
                    f"the record at byte {offset} crashes an exporter that reads it: {CRASHES} "
                    "starts would fail, the next would skip it"
                ) from error
            if kind == BATCH and isinstance(accepted := decode_batch(content), Accepted):
                events += len(accepted.happened)
        size = os.fstat(file.fileno()).st_size
    if damaged := size - reader.good_bytes:
        raise _FaultError(
            f"damaged from byte {reader.good_bytes}: a start would move {damaged} bytes "
            "to quarantine"
        )
    return f"{records} records with {events} events"
