"""How the settings name a model: `[name=]source`, then options such as `,slots=4`.

The source is a file, or a server that has the model.

The text is the same in a flag, an environment variable and a TOML list. Where commas also separate
the models, an option belongs to the model before it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast, get_args

from node.engine.choice import Wanted
from node.engine.protocol import OwnEngineName
from node.engine.upstream.address import is_address
from shared.settings.kinds import Listed

EngineChoice = OwnEngineName | Literal["auto"]
ENGINES: Final[tuple[str, ...]] = ("auto", *get_args(OwnEngineName))
OPTIONS: Final = ("engine", "slots", "context", "key-file", "ca-file")
_OPTION: Final = re.compile(rf"({'|'.join(OPTIONS)})=(.*)", re.DOTALL)
_MISTYPED: Final = re.compile(r"([A-Za-z_]+)=(?![^,]*(/|\.gguf(,|$)))", re.IGNORECASE)
"""A name, and then neither a path nor the name of a GGUF file."""
_NAMED: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})=(.+)", re.DOTALL)
_SERVER_OPTIONS: Final = ("key-file", "ca-file")
_LARGEST: Final = 2**31 - 1


@dataclass(frozen=True)
class Entry:
    """One model as the settings name it."""

    name: str
    """Empty if it is to be named after its file."""
    source: str
    wanted: Wanted
    """How to hold it."""
    key_file: Path | None = None
    """The key of a server that has the model."""
    ca_file: Path | None = None
    """Trusted CAs of that server."""


def read_entry(text: str, default: Wanted) -> Entry:
    """Read the name of a model and its options; `default` has the options that it lacks.

    Raises:
        ValueError: The text says what is wrong.
    """
    model, *options = text.split(",")
    if _OPTION.fullmatch(model):
        raise ValueError("is an option without a model before it")
    values: dict[str, str] = {}
    for option in options:
        found = _OPTION.fullmatch(option)
        if not found:
            raise ValueError(_explain(option))
        if found[1] in values:
            raise ValueError(f"has {found[1]} twice")
        values[found[1]] = found[2]
    named = _NAMED.fullmatch(model)
    name, source = (named[1], named[2]) if named else ("", model)
    _check_place(source, values)
    files = {option: Path(values[option]) for option in _SERVER_OPTIONS if values.get(option)}
    wanted = _read_options(values, default)
    return Entry(name, source, wanted, files.get("key-file"), files.get("ca-file"))


def _check_place(source: str, values: Mapping[str, str]) -> None:
    """Check that the options fit a server or a file.

    Raises:
        ValueError: One of them does not.
    """
    unfit = ("engine",) if is_address(source) else _SERVER_OPTIONS
    for option in unfit:
        if option in values:
            kind = "a model on a server" if is_address(source) else "a model's file"
            raise ValueError(f"has {option}=, which is not for {kind}")


def _read_options(values: dict[str, str], default: Wanted) -> Wanted:
    engine = values.get("engine", default.engine)
    if engine not in ENGINES:
        raise ValueError(f"has engine={engine}: it is one of {', '.join(ENGINES)}")
    return Wanted(
        engine=cast("EngineChoice", engine),
        context_length=_read_count(values, "context", default.context_length),
        slots=_read_count(values, "slots", default.slots),
    )


def _read_count(values: dict[str, str], option: str, default: int) -> int:
    text = values.get(option)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal()) or not 0 <= int(text[:20]) <= _LARGEST:
        raise ValueError(f"has {option}={text}: it is a whole number, 0 for the default")
    return int(text)


def _find_fault(text: str) -> str:
    try:
        read_entry(text, Wanted())
    except ValueError as error:
        return str(error)
    return ""


def _explain(option: str) -> str:
    if mistyped := _MISTYPED.match(option):
        known = ", ".join(OPTIONS)
        return f"has {mistyped[1]}=, which is neither an option ({known}) nor a model's path"
    return "contains a comma"


def _is_option(text: str) -> bool:
    return bool(_OPTION.fullmatch(text) or _MISTYPED.match(text))


MODELS: Final = Listed("[name=]model[,option=…],…", _find_fault, _is_option)
"""The setting's type: a tuple of texts that `read_entry` reads."""
