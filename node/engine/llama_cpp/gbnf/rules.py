"""The rules of a grammar in GBNF, and how texts and repetitions are written in it.

llama.cpp describes the notation in its `grammars/README.md`.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from node.engine.llama_cpp.errors import RefusedError

_RULES_AT_MOST: Final = 5000
_BYTES_AT_MOST: Final = 2**20
"""Compiling that many takes 0.1 s, in which the node does nothing else; both limits are guesses."""
_REPEATS_AT_MOST: Final = 2**16
_BLOCK: Final = 50
"""Repetitions in a block. Neither blocks nor what is in one come near llama.cpp's limit."""
_SHORT: Final = 200
"""Characters of an expression."""
SEPARATOR: Final = '"," space'
SPACE: Final = "space"
_FRACTION: Final = '("." [0-9]{1,16})?'
_COMMON: Final[Mapping[str, str]] = {
    # Not unlimited: a model could write blanks for ever.
    SPACE: r'| " " | "\n"{1,2} [ \t]{0,20}',
    "null": '"null"',
    "boolean": '"true" | "false"',
    "character": r'[^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})',
    "string": r'"\"" character* "\""',
    "whole": '"0" | [1-9] [0-9]{0,15}',
    "integer": '"-"? whole',
    "number": f'"-"? whole {_FRACTION} ([eE] [-+]? [0-9]{{1,2}})?',
    "value": "object | array | string | number | boolean | null",
    "member": 'string ":" space value',
    "object": f'"{{" space (member ({SEPARATOR} member)* space)? "}}"',
    "array": f'"[" space (value ({SEPARATOR} value)* space)? "]"',
    "date": '[0-9]{4} "-" (("0" [13578] | "10" | "12") "-" ("0" [1-9] | [12] [0-9] | "3" [01])'
    ' | ("0" [469] | "11") "-" ("0" [1-9] | [12] [0-9] | "30") | "02-" ("0" [1-9] | [12] [0-9]))',
    "time": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})?'
    ' ("Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])',
    "uuid": 'hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}',
    "hex": "[0-9a-fA-F]",
}
"""Rules of every grammar."""


class Rules:
    """Collects the rules of one grammar; equal ones are kept once."""

    def __init__(self) -> None:
        self._bodies = dict(_COMMON)
        self._names: dict[str, str] = {}
        self._size = 0

    def add(self, body: str) -> str:
        """Return the name of a rule, which is added if there is none; raises like `define`."""
        if body in self._bodies:
            return body
        if body not in self._names:
            self.define(self.reserve(), body)
        return self._names[body]

    def reserve(self) -> str:
        """Return the name of a rule that is defined later; raises like `define`."""
        name = f"rule-{len(self._bodies)}"
        self._bodies[name] = ""
        return name

    def define(self, name: str, body: str) -> None:
        """Set what a reserved name means.

        Raises:
            RefusedError: The grammar would be too large.
        """
        self._size += len(body)
        if len(self._bodies) > _RULES_AT_MOST or self._size > _BYTES_AT_MOST:
            raise RefusedError("the schema cannot be followed: it is too large")
        self._bodies[name] = body
        self._names.setdefault(body, name)

    def write(self, root: str) -> str:
        """Return the grammar of what the rule `root` means."""
        lines = {"root": root} | self._bodies
        return "".join(f"{name} ::= {body}\n" for name, body in lines.items())


def refuse(place: str, fault: str) -> RefusedError:
    """Return the error for a schema with a fault at a place."""
    return RefusedError(f"the schema cannot be followed: at {place}: {fault}")


def literal(text: str) -> str:
    """Return what matches a text of JSON, which has no raw control characters."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def json_literal(value: Any) -> str:
    """Return what matches a JSON value in its usual form."""
    return literal(json.dumps(value, ensure_ascii=False))


def either(choices: Iterable[str]) -> str:
    """Return what matches any of several expressions."""
    return " | ".join(dict.fromkeys(choices))


def repeated(expression: str, least: int, most: int | None, place: str) -> str:
    """Return what matches an expression several times; nothing for none.

    Many times are written as times of blocks: llama.cpp refuses more than 2,000 of one expression.

    Args:
        expression: A name, a class or a group.
        least: How often at least.
        most: How often at most; None for no limit.
        place: Where the schema says so.

    Raises:
        RefusedError: That is too often.
    """
    if max(least, most or 0) > _REPEATS_AT_MOST:
        raise refuse(place, f"more than {_REPEATS_AT_MOST} repetitions")
    if len(expression) > _SHORT:  # blocks repeat its text
        return _directly(expression, least, most)
    before = _exactly(expression, least) if least > _BLOCK else ""
    if before:
        least, most = 0, None if most is None else most - least
    if most is None or most <= 2 * _BLOCK:
        return f"{before} {_directly(expression, least, most)}".strip()
    blocks, rest = divmod(most - least, _BLOCK)
    some = _directly(expression, least, least + _BLOCK + rest)
    return f"{before} ({expression}{{{_BLOCK}}}){{0,{blocks - 1}}} {some}".strip()


def _exactly(expression: str, times: int) -> str:
    blocks, rest = divmod(times, _BLOCK)
    written = [f"({expression}{{{_BLOCK}}}){{{blocks}}}"] if blocks else []
    return " ".join([*written, f"{expression}{{{rest}}}"] if rest else written)


def _directly(expression: str, least: int, most: int | None) -> str:
    if most == 0:
        return ""
    if (least, most) == (0, 1):
        return f"{expression}?"
    if most is None:
        return f"{expression}*" if least == 0 else f"{expression}{{{least},}}"
    return f"{expression}{{{least},{most}}}"
