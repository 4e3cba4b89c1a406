"""The settings of every process; each process has one frozen dataclass as its only list."""

import dataclasses
import logging
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Self, TypeVar

import click

from shared.settings.command_line import read_command_line
from shared.settings.declaration import (
    CONFIG,
    Topic,
    UsageError,
    as_text,
    declarations,
    default_of,
    flag_of,
    key_of,
    setting,
)
from shared.settings.kinds import DIRECTORY, FILE, HOST, ID
from shared.wire import SOCKET_NAME, SOCKET_PATH_BYTES

APPLICATION: Final = "distributed-llm"
_USER_PART: Final = re.compile(r"(?<=://)[^/@\s]+(?=@)")

SettingsT = TypeVar("SettingsT", bound="Settings")
_log = logging.getLogger(__name__)


def _runtime_directory() -> Path:
    # systemd names the directory that it created for the unit (systemd.exec(5)); a desktop session
    # has its own (XDG Base Directory Specification).
    if given := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(given)
    if session := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(session, APPLICATION)
    return Path(tempfile.gettempdir(), f"{APPLICATION}-{os.getuid()}")


def _state_directory() -> Path:
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given)
    if given := os.environ.get("XDG_STATE_HOME"):
        return Path(given, APPLICATION)
    try:
        return Path.home() / ".local" / "state" / APPLICATION
    except RuntimeError:  # a user without a home directory, as in many containers
        return Path(tempfile.gettempdir(), f"{APPLICATION}-{os.getuid()}-state")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of every process."""

    unused: ClassVar[frozenset[str]] = frozenset()
    """Settings that are accepted but not shown by `--help`, so that processes can share flags."""

    config: Path | None = setting(
        Topic.GENERAL, None, FILE, "TOML file with settings; see docs/settings.md."
    )
    node_id: str = setting(
        Topic.GENERAL,
        "",
        ID,
        "Name of the node in every metric.",
        shown="the host's name, kept in --state-dir",
    )
    host: str = setting(Topic.GENERAL, "127.0.0.1", HOST, "IP address to listen on.")
    runtime_dir: Path = setting(
        Topic.GENERAL,
        _runtime_directory,
        DIRECTORY,
        "Private directory of the telemetry socket.",
        shown="`$RUNTIME_DIRECTORY`, else `distributed-llm` in `$XDG_RUNTIME_DIR`, else "
        "`/tmp/distributed-llm-UID`",
    )
    state_dir: Path = setting(
        Topic.GENERAL,
        _state_directory,
        DIRECTORY,
        "Directory for data that survives restarts.",
        shown="`$STATE_DIRECTORY`, else `distributed-llm` in `$XDG_STATE_HOME` or `~/.local/state`",
    )
    log_level: str = setting(
        Topic.LOGGING,
        "info",
        click.Choice(["debug", "info", "warning", "error"]),
        "Least severe level to log.",
    )
    log_format: str = setting(
        Topic.LOGGING, "text", click.Choice(["text", "json"]), "Format of log lines."
    )
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    """The source of each value that is not a default: "flag", "environment" or "file"."""

    @property
    def socket_path(self) -> Path:
        """The socket on which the exporter listens for the node's batches."""
        return self.runtime_dir / SOCKET_NAME

    def check(self) -> None:
        """Check what involves more than one setting.

        Raises:
            UsageError: The settings contradict each other.
        """
        if len(os.fsencode(self.socket_path)) > SOCKET_PATH_BYTES:
            message = (
                f"--runtime-dir is too long: the path of a socket in it has "
                f"{len(os.fsencode(self.socket_path))} bytes and may have {SOCKET_PATH_BYTES}; "
                "set a shorter one, such as /run/distributed-llm"
            )
            raise UsageError(message)

    @classmethod
    def read(cls, program: str, arguments: Sequence[str], about: str) -> Self:
        """Build the settings from the command line, the environment and the TOML file.

        Raises:
            UsageError: One line that names the flag, variable or key and what is wrong with it.
            HelpShownError: `--help` was given and the help is printed.
        """
        given = read_command_line(cls, program, arguments, about, cls.unused)
        settings = cls(**given.values, sources=given.sources)
        settings.check()
        return settings

    def as_flags(self, wanted: type["Settings"]) -> list[str]:
        """Return the settings that `wanted` also has and that differ from its defaults, as flags.

        The process that gets them must read neither the environment nor the settings file.
        Otherwise a value there would override a flag that was set back to its default.
        """
        flags = []
        for name, declared in declarations(wanted).items():
            value = getattr(self, name, None)
            if declared.positional or name == CONFIG or value == default_of(wanted, name):
                continue
            flags.append(flag_of(name) if value is True else f"{flag_of(name)}={as_text(value)}")
        return flags

    def log(self) -> None:
        """Log the settings that are not defaults, with their sources, in one line."""
        given = []
        for name in declarations(type(self)):
            value = getattr(self, name)
            source = self.sources.get(name)
            if source or value != default_of(type(self), name):
                text = _USER_PART.sub("***", as_text(value))
                given.append(f"{key_of(name)}={text} ({source or 'derived'})")
        _log.info("settings: %s", ", ".join(given) or "all defaults")
