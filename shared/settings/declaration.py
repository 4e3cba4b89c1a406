"""How a setting is declared: once, as a field of a frozen dataclass.

All its names derive from the field's: `api_port` is the flag `--api-port`, the environment variable
`DISTRIBUTED_LLM_API_PORT` and the key `api-port` of the TOML file.
"""

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

ENVIRONMENT_PREFIX: Final = "DISTRIBUTED_LLM_"
CONFIG: Final = "config"
"""The setting that names the TOML file."""
_KEY: Final = "declaration"

Kind = click.ParamType[Any] | type[bool]


class UsageError(Exception):
    """A setting is unknown or malformed, or contradicts another. The text is one line."""


class Topic(enum.StrEnum):
    """The headings of `--help`, in order."""

    OPTIONS = "Options"
    """For a single command such as `replay`: only flags, in neither the environment nor the file.
    """
    GENERAL = "General"
    MODELS = "Models"
    API = "API"
    TLS = "TLS of the API"
    LIMITS = "Limits"
    MESH = "Mesh"
    METRICS = "Metrics"
    LOGGING = "Logging"


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What is known about a setting besides its name and default."""

    topic: Topic
    kind: Kind
    """The click type that parses it."""
    text: str
    """Its help line."""
    shown: str = ""
    """The default in words, if the value says less or depends on the machine."""
    positional: bool = False
    required: bool = False
    """Whether a positional argument must be given."""


def setting(topic: Topic, default: Any, kind: Kind, text: str, *, shown: str = "") -> Any:
    """Declare a setting; `default` is a value or a function that returns it."""
    metadata = {_KEY: Declaration(topic=topic, kind=kind, text=text, shown=shown)}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def argument(kind: Kind, text: str, *, required: bool = True) -> Any:
    """Declare a tuple of positional arguments, at least one if they are required."""
    declared = Declaration(
        topic=Topic.OPTIONS, kind=kind, text=text, positional=True, required=required
    )
    return dataclasses.field(default=(), metadata={_KEY: declared})


def declarations(settings: type) -> dict[str, Declaration]:
    """Return the settings of a class by field name, in declaration order."""
    return {
        field.name: field.metadata[_KEY]
        for field in dataclasses.fields(settings)
        if _KEY in field.metadata
    }


def default_of(settings: type, name: str) -> Any:
    """Return a setting's default on this machine."""
    field = next(field for field in dataclasses.fields(settings) if field.name == name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def default_in_words(settings: type, name: str, *, on_this_machine: bool) -> str:
    """Return a setting's default as text for the help; empty if the default is."""
    default = default_of(settings, name)
    shown = declarations(settings)[name].shown
    if shown and not (on_this_machine and isinstance(default, Path)):
        return shown
    return as_text(default) if default else ""


def key_of(name: str) -> str:
    """Return a setting's name as operators write it."""
    return name.replace("_", "-")


def flag_of(name: str) -> str:
    """Return a setting's flag."""
    return f"--{key_of(name)}"


def variable_of(name: str) -> str:
    """Return a setting's environment variable."""
    return ENVIRONMENT_PREFIX + name.upper()


def as_text(value: object) -> str:
    """Format a value as its flag and its variable accept it."""
    if isinstance(value, Mapping):
        return ";".join(f"{name}={as_text(each)}" for name, each in value.items())
    if isinstance(value, tuple):
        return ",".join(map(as_text, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
