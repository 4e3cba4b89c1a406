"""The TOML file: the same settings under the same names, for every process of the machine.

Settings that every process has come first, above all tables. `[node]` and `[exporter]` hold the
settings of one process. A process skips the other's table, so that both can share the file. The
agent reads everything.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from shared.settings.declaration import (
    CONFIG,
    Kind,
    Topic,
    UsageError,
    declarations,
    key_of,
)
from shared.settings.kinds import Buckets, Group, Listed

TABLES: Final = ("node", "exporter")
COMMON: Final = ""
"""The top of the file, above all tables."""
_MOST_BYTES: Final = 2**20
_HEADER: Final = re.compile(r"\s*\[\s*([\w.-]+)\s*\]")
_ASSIGNMENT: Final = re.compile(r"""\s*["']?([\w-]+)["']?\s*[=.]""")

_Place = tuple[str, str]
"""A table and a key in it."""


def read_settings_file(path: Path, settings: type) -> dict[str, Any]:
    """Return the values in a file by field name.

    Raises:
        UsageError: One line with the file, the line, the key and what is expected there.
    """
    text, document = _read(path)
    known = {place_of(settings, name): name for name in _names(settings)}
    values = {}
    for place, value in _entries(document, {table for table, _ in known}):
        try:
            name = _find(place, known)
            values[name] = _convert(declarations(settings)[name].kind, value)
        except UsageError as error:
            line = _line(text, place)
            where = f"{path}, line {line}" if line else f"{path}"
            raise UsageError(f"{where}: {_written(place)}: {error}") from error
    return values


def place_of(settings: type, name: str) -> _Place:
    """Return the table of a setting: the one of the class that declares it."""
    owner = next(base for base in reversed(settings.__mro__) if name in _own_names(base))
    return getattr(owner, "table", COMMON), key_of(name)


def _own_names(base: type) -> Mapping[str, Any]:
    annotations: Mapping[str, Any] = vars(base).get("__annotations__", {})
    return annotations


def _names(settings: type) -> Iterator[str]:
    for name, declared in declarations(settings).items():
        if declared.topic is not Topic.OPTIONS and name != CONFIG:
            yield name


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Return a file's text and its parsed content."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)[:_MOST_BYTES].decode("utf-8-sig")
        return text, tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"--config {path} cannot be read: {error.strerror}") from error
    except (
        ValueError,
        RecursionError,
    ) as error:  # bad encoding, TOML or number
        raise UsageError(f"--config {path} is not TOML: {error}") from error


def _entries(document: dict[str, Any], wanted: set[str]) -> Iterator[tuple[_Place, Any]]:
    """Yield what concerns a process: the top of the file and the tables that it reads."""
    for key, value in document.items():
        if key not in TABLES or not isinstance(value, dict):
            yield (COMMON, key), value
        elif key in wanted:
            yield from (((key, inner), each) for inner, each in value.items())


def _find(place: _Place, known: Mapping[_Place, str]) -> str:
    """Return the field of a key; for an unknown key, suggest a name or the right table."""
    if place in known:
        return known[place]
    table, key = place
    if table == COMMON and key in TABLES:
        raise UsageError(f"expected a table: [{key}]")
    spelled = key.replace("_", "-")
    for other in (COMMON, *TABLES):
        if (other, spelled) in known:
            where = f"in [{other}]" if other else "at the top, above all tables"
            raise UsageError(f"expected {spelled}" if other == table else f"belongs {where}")
    similar = [*(one for at, one in known if at == table), *(() if table else TABLES)]
    if close := difflib.get_close_matches(spelled, similar, 1):
        raise UsageError(f"unknown; did you mean {close[0]}?")
    if table == COMMON:
        raise UsageError("unknown; settings of one process belong in [node] or [exporter]")
    raise UsageError("unknown")


def _convert(kind: Kind, value: Any) -> Any:
    expected, types = _expected(kind)
    is_wrong = not isinstance(value, types) or (isinstance(value, bool) and kind is not bool)
    if is_wrong or (isinstance(value, list) and not all(isinstance(one, str) for one in value)):
        raise UsageError(f"expected {expected}")
    if isinstance(kind, type):
        return value
    try:
        return kind.convert(value, None, None)
    except click.BadParameter as error:
        raise UsageError(error.message.rstrip(".")) from error
    except (OverflowError, ValueError) as error:  # a number out of range, a path with a NUL
        raise UsageError(str(error)) from error


def _expected(kind: Kind) -> tuple[str, tuple[type, ...]]:
    """Return the file's type for a kind of setting, in words and as Python types."""
    if isinstance(kind, click.IntRange):
        return "a whole number", (int,)
    if isinstance(kind, click.FloatRange):
        return "a number", (int, float)
    if isinstance(kind, Listed):
        return 'a list of strings, such as ["a", "b"]', (list,)
    if isinstance(kind, Buckets):
        return "a table of lists, such as {name = [1, 5]}", (dict,)
    if isinstance(kind, Group):
        return "a name or a number", (str, int)
    return ("true or false", (bool,)) if kind is bool else ("a string in quotes", (str,))


def _line(text: str, place: _Place) -> int | None:
    """Return the line number of a key or of its table; None if it is written in an unusual way."""
    table = COMMON
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = header[1]
        key = _ASSIGNMENT.match(line)
        if (table, key[1] if key else "") == place or table == ".".join(filter(None, place)):
            return number
    return None


def _written(place: _Place) -> str:
    table, key = place
    return f"{key} in [{table}]" if table else key
