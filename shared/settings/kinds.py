"""The types of setting values: what each accepts, and its name in the help."""

import grp
import ipaddress
import itertools
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click

NODE_ID: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
Bounds = Mapping[str, tuple[float, ...]]
"""Bucket bounds by the histogram's name."""

_ORIGIN: Final = re.compile(r"https?://[a-z0-9.-]+(:[0-9]+)?|https?://\[[0-9a-f:]+\](:[0-9]+)?")
"""An origin as browsers write it (RFC 6454, section 6.2): scheme, host in lower case, optional
port."""

_DNS_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_URL: Final = re.compile(r"https?://[!-~]+")
_COLLECTOR: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class Integer(click.IntRange):
    """A whole number in a range that does not overflow any library's counter."""

    def __init__(self, name: str, least: int, most: int = 2**31 - 1) -> None:
        super().__init__(least, most)
        self.name = name


class Number(click.FloatRange):
    """A finite number in a range; click's own type accepts NaN."""

    name = "n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number. Refuse values for which no clock can wait."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return float(number)


class Listed(click.ParamType[tuple[str, ...]]):
    """A list of strings, separated by commas in a flag or a variable.

    Args:
        name: The name shown in the help.
        find_fault: Returns what is wrong with an item; empty if nothing is.
        continues: Whether what follows a comma still belongs to the item before it.
    """

    def __init__(
        self,
        name: str,
        find_fault: Callable[[str], str] = lambda _: "",
        continues: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.name = name
        self._find_fault = find_fault
        self._continues = continues

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Return the items without empty ones."""
        items: list[str] = []
        for piece in filter(None, value.split(",") if isinstance(value, str) else value):
            if items and self._continues(piece):
                items[-1] += f",{piece}"
            else:
                items.append(piece)
        for item in items:
            if fault := self._find_break(item) or self._find_fault(item):
                self.fail(f"{item!r} {fault}.", param, ctx)
        return tuple(items)

    def _find_break(self, item: str) -> str:
        is_broken = "\0" in item or not all(map(self._continues, item.split(",")[1:]))
        return "contains a comma or a NUL" if is_broken else ""


class Buckets(click.ParamType[Bounds]):
    """Bucket bounds by histogram, as in `inference_latency_seconds=1,5,30;…`."""

    name = "family=1,2,…;…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Bounds:
        """Return the bounds. The exporter checks whether the histograms exist."""
        if isinstance(value, str):
            value = dict(part.partition("=")[::2] for part in filter(None, value.split(";")))
        return {name: self._read(name, bounds, param, ctx) for name, bounds in value.items()}

    def _read(
        self, name: str, given: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        try:
            bounds = tuple(map(float, given.split(",") if isinstance(given, str) else given))
        except (OverflowError, TypeError, ValueError):
            self.fail(f"the buckets of {name} are not all numbers: {given!r}.", param, ctx)
        rising = all(low < high for low, high in itertools.pairwise((*bounds, math.inf)))
        if not bounds or not rising or bounds[0] < 0:
            self.fail(f"the buckets of {name} are not rising: {given!r}.", param, ctx)
        return bounds


class Group(click.ParamType[int]):
    """A system group by name or number; in a container only numbers may exist."""

    name = "group"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the group's number."""
        if isinstance(value, int) or value.isdecimal():
            return int(value)
        try:
            return grp.getgrnam(value).gr_gid
        except KeyError:
            self.fail(f"this system has no group {value!r}.", param, ctx)


class _NodeId(click.ParamType[str]):
    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value and not NODE_ID.fullmatch(value):
            self.fail(
                f"{value!r} is not 1 to 64 of A-Z a-z 0-9 . _ - that begin and end with a letter "
                "or digit.",
                param,
                ctx,
            )
        return str(value)


class _Host(click.ParamType[str]):
    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(ipaddress.ip_address("127.0.0.1" if value == "localhost" else value))
        except ValueError:
            self.fail(f"{value!r} is not an IP address to listen on.", param, ctx)


class _Path(click.Path):
    def __init__(self, name: str, **wanted: bool) -> None:
        super().__init__(path_type=Path, **wanted)
        self.name = name


class _Url(click.ParamType[str]):
    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value and not _URL.fullmatch(value):
            self.fail(f"{value!r} is not a URL such as http://127.0.0.1:4318.", param, ctx)
        return str(value)


class _DnsName(click.ParamType[str]):
    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value and not _DNS_NAME.fullmatch(value):
            self.fail(f"{value!r} is not a DNS name such as nodes.example.", param, ctx)
        return str(value)


def _find_seed_fault(seed: str) -> str:
    host, _, port = seed.rpartition(":")
    is_whole = host and port.isdecimal() and 0 < int(port) < 2**16
    return "" if is_whole else "is not host:port"


def _find_origin_fault(origin: str) -> str:
    is_whole = origin == "*" or _ORIGIN.fullmatch(origin)
    return "" if is_whole else "is not an origin such as https://chat.example"


class _Text(click.ParamType[str]):
    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if "\0" in value:
            self.fail("it contains a NUL.", param, ctx)
        return str(value)


def _find_collector_fault(collector: str) -> str:
    return "" if _COLLECTOR.fullmatch(collector) else "is not module:name"


HOST: Final = _Host()
URL: Final = _Url()
SHARE: Final = Number(min=0, max=1)
ID: Final = _NodeId()
POSITIVE: Final = Number(min=0, min_open=True)
NOT_NEGATIVE: Final = Number(min=0)
COUNT: Final = Integer("n", 1)
COUNT_OR_NONE: Final = Integer("n", 0)
PORT: Final = Integer("port", 0, 2**16 - 1)
SEEDS: Final = Listed("host:port,…", _find_seed_fault)
ORIGINS: Final = Listed("origin,…", _find_origin_fault)
TEXT: Final = _Text()
DNS_NAME: Final = _DnsName()
COLLECTORS: Final = Listed("module:name,…", _find_collector_fault)
FILE: Final = _Path("file", dir_okay=False)
FILE_OR_STDOUT: Final = _Path("file|-", dir_okay=False, allow_dash=True)
DIRECTORY: Final = _Path("directory", file_okay=False)
EXISTING: Final = _Path("path", exists=True)
