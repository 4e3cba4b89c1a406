"""The entry point of every command: reads the settings and turns each failure into one line."""

import logging.config
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from shared import logs, streams
from shared.groups import leaves
from shared.settings.base import Settings, SettingsT
from shared.settings.command_line import HelpShownError
from shared.settings.declaration import UsageError


@dataclass(frozen=True)
class Subcommand:
    """A subcommand: what the command does when its first argument is the subcommand's name."""

    about: str
    settings_class: type[Settings]
    start: Callable[[Any], int | None]


_NONE: Mapping[str, Subcommand] = MappingProxyType({})


def run_command(  # noqa: PLR0913 - few commands have subcommands
    program: str,
    about: str,
    settings_class: type[SettingsT],
    start: Callable[[SettingsT], int | None],
    startup_error: type[Exception],
    arguments: Sequence[str] | None = None,
    *,
    subcommands: Mapping[str, Subcommand] = _NONE,
) -> int:
    """Run one of the project's commands and return its exit code.

    Args:
        program: The command's name, which begins each error message.
        about: The description for `--help`.
        settings_class: The command's settings.
        start: Runs the command. Returns after a clean stop, or returns an exit code.
        startup_error: What `start` raises, alone or in groups, if the command cannot run here.
        arguments: The command line without the program; default: this process's.
        subcommands: The subcommands by name.

    Returns:
        0 after a clean stop or `--help`, 1 if the command cannot run here, 2 for incorrect usage.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given and (one := subcommands.get(given[0])):
        return run_command(
            f"{program} {given[0]}",
            one.about,
            one.settings_class,
            one.start,
            startup_error,
            given[1:],
        )
    help_text = about + _list(subcommands)
    return guard(
        program, lambda: _start(program, help_text, settings_class, start, given), startup_error
    )


def _start(
    program: str,
    help_text: str,
    settings_class: type[SettingsT],
    start: Callable[[SettingsT], int | None],
    given: Sequence[str],
) -> int:
    """Read the settings, prepare the log and run the command; return its exit code."""
    try:
        settings = settings_class.read(program, given, help_text)
    except HelpShownError:
        return 0
    journal = logs.stderr_is_journal()
    logging.config.dictConfig(
        logs.configuration(settings.log_level, settings.log_format, journal=journal)
    )
    return start(settings) or 0


def guard(program: str, run: Callable[[], int], startup_error: type[Exception]) -> int:
    """Run a command with usable standard streams and return its exit code.

    Args:
        program: The command's name, which begins each error message.
        run: Runs the command and returns its exit code.
        startup_error: What `run` raises, alone or in groups, if the command cannot run here.
    """
    streams.make_usable()
    _be_stoppable()
    code = 0
    failed: list[Exception] = []
    try:
        code = run()
        streams.write("")
    except* UsageError as group:
        code, failed = 2, leaves(group)
    except* streams.ReaderGoneError:
        code = 0  # the reader has read enough
    except* (startup_error, streams.UnwritableError) as group:
        code, failed = 1, leaves(group)
    if failed:
        _complain(program, failed[0])
    return code


def _be_stoppable() -> None:
    """Make SIGTERM end process 1 until a handler is set: it has no default action there."""
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))


def _list(subcommands: Mapping[str, Subcommand]) -> str:
    """List the subcommands for `--help`, one a line."""
    lines = [f"{name:10}{one.about.partition('.')[0]}." for name, one in subcommands.items()]
    # click keeps the line breaks of a paragraph that begins with \b.
    return "\n\n\b\nSubcommands, each with its own --help:\n" + "\n".join(lines) if lines else ""


def _complain(program: str, error: BaseException) -> None:
    prefix = logs.ERROR_PREFIX if logs.stderr_is_journal() else ""
    sys.stderr.write(f"{prefix}{program}: {error}\n")
