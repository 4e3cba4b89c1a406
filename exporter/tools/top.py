"""The subcommand `top`: the status page's numbers in a terminal."""

import dataclasses
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click
import trio

from exporter.errors import StartupError
from exporter.status.snapshot import Snapshot
from exporter.tools.status_client import (
    LostError,
    RefusedError,
    Target,
    basic,
    bearer,
    open_tls,
)
from exporter.tools.top_plain import as_text
from shared import streams
from shared.runtime.signals import stop_signals
from shared.runtime.token_file import TokenFileError, read_tokens
from shared.settings.base import Settings
from shared.settings.declaration import Topic, UsageError, argument, setting
from shared.settings.kinds import FILE

if TYPE_CHECKING:
    from exporter.tools.top_screen import Screen

ABOUT: Final = """Show the numbers of an exporter's status page in a terminal.

URL is any exporter that can be reached; default: http://127.0.0.1:9090. Ctrl-C ends it. Without a
terminal, or with --once, it prints them once: exit code 0 if all is well or degraded, 1 if not."""
_DEFAULT_URL: Final = "http://127.0.0.1:9090"
_RETRY_SECONDS: Final = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopSettings(Settings):
    """The settings of `top`."""

    unused = frozenset({"node_id", "host", "runtime_dir", "state_dir", "log_level", "log_format"})

    url: tuple[str, ...] = argument(click.STRING, "The exporter's address.", required=False)
    once: bool = setting(Topic.OPTIONS, False, bool, "Print the numbers once as plain text.")
    token_file: Path | None = setting(
        Topic.OPTIONS, None, FILE, "File with the bearer token that the exporter requires."
    )
    user: str = setting(Topic.OPTIONS, "", click.STRING, "User name, with --password-file.")
    password_file: Path | None = setting(
        Topic.OPTIONS, None, FILE, "File with the user's password."
    )
    ca_file: Path | None = setting(
        Topic.OPTIONS, None, FILE, "Trusted CAs of an https URL.", shown="the system's"
    )
    certificate_file: Path | None = setting(
        Topic.OPTIONS, None, FILE, "This client's certificate, if the exporter requires one."
    )
    key_file: Path | None = setting(
        Topic.OPTIONS, None, FILE, "The certificate's key.", shown="in --certificate-file"
    )

    @property
    def address(self) -> str:
        """The exporter's address."""
        return self.url[0] if self.url else _DEFAULT_URL

    def check(self) -> None:
        """Check also the address, and that the credentials are complete.

        Raises:
            UsageError: The settings do not go together.
        """
        super().check()
        if len(self.url) > 1:
            raise UsageError(f"URL: {len(self.url)} were given; name one exporter")
        if not _is_address(self.address):
            raise UsageError(f"URL: {self.address!r} is not an address such as {_DEFAULT_URL}")
        if bool(self.user) != bool(self.password_file):
            raise UsageError("--user and --password-file: give both, or neither")
        if self.token_file and self.user:
            raise UsageError("--token-file and --user: give one of them")


def top(settings: TopSettings) -> int:
    """Show the numbers until SIGTERM, SIGINT or SIGHUP, or once; return the exit code.

    Raises:
        StartupError: The exporter refuses, or cannot be reached and is asked once.
    """
    target = _open_target(settings)
    try:
        if settings.once or not sys.stdout.isatty():
            return _print_once(target)
        trio.run(_show, target)
    except* (LostError, RefusedError) as group:
        raise StartupError(str(group.exceptions[0])) from group
    return 0


def _print_once(target: Target) -> int:
    snapshot = target.read()
    streams.write(as_text(snapshot))
    return 1 if snapshot.health == "failed" else 0


async def _show(target: Target) -> None:
    if importlib.util.find_spec("rich") is None:
        raise StartupError(
            "the library rich is missing: install distributed-llm[top], or use --once"
        )
    from exporter.tools.top_screen import open_screen  # noqa: PLC0415 - an optional library

    with (
        trio.open_signal_receiver(*stop_signals()) as signals,
        open_screen(target.url) as screen,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_follow, target, screen, name="status")
            await anext(signals)
            nursery.cancel_scope.cancel()


async def _follow(target: Target, screen: "Screen") -> None:
    """Show each picture; connect again when the exporter is lost. Runs until cancelled.

    Raises:
        RefusedError: The exporter refuses (in a group).
    """
    while True:
        pictures = target.follow()
        try:
            while (snapshot := await _read_next(pictures)) is not None:
                screen.show(snapshot)
        except LostError as error:
            screen.lose(str(error))
            await trio.sleep(_RETRY_SECONDS)


async def _read_next(pictures: Iterator[Snapshot]) -> Snapshot | None:
    """Return the next picture; None after the last. A cancelled read ends with the process."""
    return await trio.to_thread.run_sync(next, pictures, None, abandon_on_cancel=True)


def _open_target(settings: TopSettings) -> Target:
    """Read the files that the settings name.

    Raises:
        StartupError: One of them cannot be used.
    """
    try:
        tls = None
        if settings.address.startswith("https:"):
            tls = open_tls(settings.ca_file, settings.certificate_file, settings.key_file)
        return Target(settings.address.rstrip("/"), _authorization(settings), tls)
    except (OSError, TokenFileError) as error:
        raise StartupError(f"the credentials cannot be used: {error}") from error


def _authorization(settings: TopSettings) -> str:
    if settings.token_file is not None:
        return bearer(read_tokens("--token-file", settings.token_file)[0])
    if settings.password_file is not None:
        return basic(settings.user, settings.password_file.read_text().rstrip("\r\n"))
    return ""


def _is_address(url: str) -> bool:
    try:
        address = urlsplit(url)
        return address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
    except ValueError:
        return False
