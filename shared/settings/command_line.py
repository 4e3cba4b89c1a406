"""The command line of a process: flags grouped by topic, each also an environment variable."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from shared.settings.declaration import (
    CONFIG,
    Declaration,
    Topic,
    UsageError,
    declarations,
    default_in_words,
    default_of,
    flag_of,
    variable_of,
)
from shared.settings.file import read_settings_file

_WIDTH: Final = 100
_PRECEDENCE: Final = (
    "Settings, such as --runtime-dir, are also read from the environment, as "
    "DISTRIBUTED_LLM_RUNTIME_DIR, and from the TOML file of --config, as runtime-dir. "
    "A flag wins over the environment, the environment over the file."
)


class HelpShownError(Exception):
    """The help was requested and is printed."""


@dataclass(frozen=True)
class Given:
    """The values that a process was given."""

    values: Mapping[str, Any]
    sources: Mapping[str, str]
    """The source of each value, by field name; defaults are absent."""


def read_command_line(
    settings: type,
    program: str,
    arguments: Sequence[str],
    about: str,
    hidden: frozenset[str],
) -> Given:
    """Read flags, the environment and the file that `config` names.

    Args:
        settings: The class that declares them.
        program: The command's name.
        arguments: The command line without the program.
        about: The command's description for `--help`.
        hidden: Settings that `--help` omits.

    Raises:
        UsageError: One line that names the flag, variable or key and what is wrong with it.
        HelpShownError: `--help` was given and the help is printed.
    """
    parameters = [_parameter(settings, name, each) for name, each in declarations(settings).items()]
    command = _Command(settings, hidden, name=program, params=parameters, help=about)
    try:
        with command.make_context(program, list(arguments), max_content_width=_WIDTH) as context:
            return Given(context.params, dict(_sources(context)))
    except click.exceptions.Exit as shown:
        raise HelpShownError from shown
    except click.UsageError as error:
        raise UsageError(" ".join(error.format_message().split())) from error


class _Command(click.Command):
    """A command with help grouped by topic."""

    def __init__(self, settings: type, hidden: frozenset[str], **wanted: Any) -> None:
        super().__init__(**wanted)
        self._settings = settings
        self._hidden = hidden

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags under the headings of their topics."""
        del ctx
        declared = declarations(self._settings)
        for topic in Topic:
            lines = [
                _describe(self._settings, name, each)
                for name, each in declared.items()
                if each.topic is topic and name not in self._hidden and not each.positional
            ]
            if lines:
                with formatter.section(topic):
                    formatter.write_dl(lines)
        formatter.write_paragraph()
        formatter.write_text(_PRECEDENCE)


def _parameter(settings: type, name: str, declared: Declaration) -> click.Parameter:
    if declared.positional:
        return click.Argument([name], type=declared.kind, nargs=-1, required=declared.required)
    return click.Option(
        [flag_of(name), name],
        type=declared.kind,
        is_flag=declared.kind is bool,
        default=default_of(settings, name),
        envvar=None if declared.topic is Topic.OPTIONS else variable_of(name),
        show_envvar=True,  # in error messages
        is_eager=name == CONFIG,
        callback=_file_loader(settings) if name == CONFIG else None,
    )


def _file_loader(settings: type) -> Callable[..., Path | None]:
    """Return click's callback that reads the settings file before any other setting."""

    def load(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
        del parameter
        if path is not None:
            context.default_map = read_settings_file(path, settings)
        return path

    return load


def _describe(settings: type, name: str, declared: Declaration) -> tuple[str, str]:
    """Return a flag with its metavariable, help and default."""
    default = default_in_words(settings, name, on_this_machine=True)
    value = "" if declared.kind is bool else f" {_name_of(declared.kind)}"
    return f"{flag_of(name)}{value}", declared.text + (f" [default: {default}]" if default else "")


def _sources(context: click.Context) -> Iterator[tuple[str, str]]:
    names = {
        ParameterSource.COMMANDLINE: "flag",
        ParameterSource.ENVIRONMENT: "environment",
        ParameterSource.DEFAULT_MAP: "file",
    }
    for name in context.params:
        if (source := names.get(context.get_parameter_source(name))) is not None:  # type: ignore[arg-type]
            yield name, source


def _name_of(kind: Any) -> str:
    return "|".join(kind.choices) if isinstance(kind, click.Choice) else kind.name.upper()
