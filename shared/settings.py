"""How a process reads its settings: one frozen dataclass is the only list of its options.

Each field declared with `setting` becomes a flag and an environment variable of the same name,
`api_port` for instance `--api-port` and `DISTRIBUTED_LLM_API_PORT`. The flag wins.
"""

import dataclasses
import ipaddress
import math
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeVar

import click

from shared.wire import SOCKET_NAME, SOCKET_PATH_BYTES

ENVIRONMENT_PREFIX: Final = "DISTRIBUTED_LLM_"
APPLICATION: Final = "distributed-llm"
NODE_ID: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")

_ORIGIN: Final = re.compile(r"https?://[a-z0-9.-]+(:[0-9]+)?|https?://\[[0-9a-f:]+\](:[0-9]+)?")
"""As browsers write one (RFC 6454, section 6.2): a scheme, a host in lower case, perhaps a port."""

SettingsT = TypeVar("SettingsT", bound="Settings")


class HelpShownError(Exception):
    """The command line asked for help or the version, which has been printed."""


class UsageError(Exception):
    """A flag or an environment variable is unknown or malformed; the text is one line."""


def setting(default: Any, kind: click.ParamType[Any] | type, text: str) -> Any:
    """Declare a setting: its default (or what gives it), how click reads it, its line of help."""
    metadata = {"kind": kind, "help": text}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def argument(kind: click.ParamType[Any], text: str) -> Any:
    """Declare what a command is given without a flag, at least one of it: a tuple of values."""
    metadata = {"kind": kind, "help": text, "positional": True}
    return dataclasses.field(default=(), metadata=metadata)


class _NodeId(click.ParamType[str]):
    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value and not NODE_ID.fullmatch(value):
            self.fail(
                f"{value!r} is not 1-64 of A-Z a-z 0-9 . _ - within letters or digits.", param, ctx
            )
        return str(value)


class _Host(click.ParamType[str]):
    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(ipaddress.ip_address("127.0.0.1" if value == "localhost" else value))
        except ValueError:
            self.fail(f"{value!r} is not an IP address to listen on.", param, ctx)


class _Seeds(click.ParamType[tuple[str, ...]]):
    name = "host:port,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        seeds = value if isinstance(value, tuple) else tuple(filter(None, value.split(",")))
        for seed in seeds:
            host, _, port = seed.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
                self.fail(f"{seed!r} is not host:port.", param, ctx)
        return seeds


class _Origins(click.ParamType[tuple[str, ...]]):
    name = "origin,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        origins = value if isinstance(value, tuple) else tuple(filter(None, value.split(",")))
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                self.fail(f"{origin!r} is not an origin such as https://chat.example.", param, ctx)
        return origins


class Number(click.FloatRange):
    """A finite number in a range; click's own lets NaN through."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read a number, as click wants it read."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number to count with.", param, ctx)
        return float(number)


HOST: Final = _Host()
POSITIVE: Final = Number(min=0, min_open=True)
NOT_NEGATIVE: Final = Number(min=0)
PORT: Final = click.IntRange(0, 2**16 - 1)
SEEDS: Final = _Seeds()
ORIGINS: Final = _Origins()
FILE: Final = click.Path(path_type=Path, dir_okay=False)
DIRECTORY: Final = click.Path(path_type=Path, file_okay=False)
EXISTING: Final = click.Path(path_type=Path, exists=True)


def _runtime_directory() -> Path:
    # systemd names the directory that it made for the unit (systemd.exec(5)); a desktop session
    # has one of its own (XDG Base Directory Specification).
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
    except RuntimeError:  # a user without a home, as in many containers
        return Path(tempfile.gettempdir(), f"{APPLICATION}-{os.getuid()}-state")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What every process of the project is told."""

    unused: ClassVar[frozenset[str]] = frozenset()
    """Settings that it takes, for it may share flags with another, and `--help` does not show."""

    node_id: str = setting(
        "",
        _NodeId(),
        "Name of the node, in every metric; if not given the host's, kept in --state-dir.",
    )
    host: str = setting("127.0.0.1", HOST, "Address that the ports here listen on.")
    runtime_dir: Path = setting(
        _runtime_directory, DIRECTORY, "Directory of the telemetry socket, only for this user."
    )
    state_dir: Path = setting(_state_directory, DIRECTORY, "Directory of what must last.")
    log_level: str = setting(
        "info", click.Choice(["debug", "info", "warning", "error"]), "Least severe line to log."
    )
    log_format: str = setting("text", click.Choice(["text", "json"]), "Form of a log line.")

    @property
    def socket_path(self) -> Path:
        """Where the exporter listens for the node's batches."""
        return self.runtime_dir / SOCKET_NAME

    def check(self) -> None:
        """Look at what no single option shows.

        Raises:
            UsageError: The settings do not go together.
        """
        if len(os.fsencode(self.socket_path)) > SOCKET_PATH_BYTES:
            message = (
                f"--runtime-dir is too long: a socket's path has at most {SOCKET_PATH_BYTES} bytes"
            )
            raise UsageError(message)

    @classmethod
    def read(cls, program: str, arguments: Sequence[str], about: str) -> Self:
        """Build the settings from the command line and the environment.

        Raises:
            UsageError: One line that names the flag or variable and what is wrong with it.
            HelpShownError: `--help` was asked for and printed.
        """
        parameters = [_parameter(each, hidden=each.name in cls.unused) for each in fields(cls)]
        command = click.Command(program, params=parameters, help=about)
        try:
            with command.make_context(program, list(arguments)) as context:
                settings = cls(**context.params)
        except click.exceptions.Exit as shown:
            raise HelpShownError from shown
        except click.UsageError as error:
            raise UsageError(" ".join(error.format_message().split())) from error
        settings.check()
        return settings

    def as_flags(self, wanted: type["Settings"]) -> list[str]:
        """Write the settings that `wanted` also has as a command line for its process."""
        given = {
            field.name: getattr(self, field.name, None)
            for field in fields(wanted)
            if "positional" not in field.metadata
        }
        return [
            _flag(name) if value is True else f"{_flag(name)}={_as_text(value)}"
            for name, value in given.items()
            if value is not None and value is not False
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricsSettings(Settings):
    """What also concerns whoever starts an exporter."""

    metrics_port: int = setting(9090, PORT, "Port of /metrics and /health; 0 takes a free one.")
    metrics_token_file: Path | None = setting(
        None, FILE, "File of bearer tokens, one a line, that /metrics and /health then ask for."
    )


def fields(settings: type[Settings]) -> list["dataclasses.Field[Any]"]:
    """List the options of a process in the order in which they are declared."""
    return list(dataclasses.fields(settings))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parameter(field: "dataclasses.Field[Any]", *, hidden: bool) -> click.Parameter:
    if "positional" in field.metadata:
        return click.Argument([field.name], type=field.metadata["kind"], nargs=-1, required=True)
    factory = field.default_factory
    return click.Option(
        [_flag(field.name), field.name],
        type=field.metadata["kind"],
        is_flag=field.metadata["kind"] is bool,
        default=field.default if factory is dataclasses.MISSING else factory(),
        envvar=ENVIRONMENT_PREFIX + field.name.upper(),
        help=field.metadata["help"],
        show_default=True,
        show_envvar=True,
        hidden=hidden,
    )


def _as_text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
