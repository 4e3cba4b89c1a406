"""The border of every command: reads its settings, and turns what goes wrong into one line."""

import logging.config
import sys
from collections.abc import Callable, Sequence

from shared import logs
from shared.settings import HelpShownError, SettingsT, UsageError


def run_command(
    program: str,
    about: str,
    settings_class: type[SettingsT],
    start: Callable[[SettingsT], int | None],
    startup_error: type[Exception],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run one of the project's commands and give its exit code.

    Args:
        program: The command's name, before each complaint.
        about: What it does, for `--help`.
        settings_class: Its options.
        start: Runs it; returns after a clean stop, or with the exit code of what it ran.
        startup_error: What `start` raises, alone or in groups, where it cannot run here.
        arguments: The command line without the program; that of the process if not given.

    Returns:
        0 after a clean stop or `--help`, 1 where the command cannot run here, 2 for bad usage.
    """
    try:
        settings = settings_class.read(
            program, sys.argv[1:] if arguments is None else arguments, about
        )
    except HelpShownError:
        return 0
    except UsageError as error:
        return _complain(program, error, 2)
    logging.config.dictConfig(logs.configuration(settings.log_level, settings.log_format))
    code: int | None = 0
    failed: list[BaseException] = []
    try:
        code = start(settings)
    except* startup_error as group:
        failed = _leaves(group)
    return _complain(program, failed[0], 1) if failed else code or 0


def _complain(program: str, error: BaseException, code: int) -> int:
    sys.stderr.write(f"{program}: {error}\n")
    return code


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
