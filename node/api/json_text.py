"""Parses JSON strictly: refuses what RFC 8259 leaves open or parsers read differently.

msgspec reads most bodies. This parser reads those that msgspec refuses, to find out why. It also
finds repeated keys, of which msgspec would silently take the last.
"""

import codecs
import json
import re
from collections import Counter
from typing import Any, Final, NoReturn

from node.errors import InvalidRequestError

_NAME_CHARACTERS: Final = 64
_MOST_DIGITS: Final = 400
"""More digits than any field's number has; Python refuses to read 4301 digits."""
_BYTE_ORDER_MARKS: Final = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


def parse(body: bytes) -> Any:
    """Return the parsed body.

    Raises:
        InvalidRequestError: It is not JSON in UTF-8; the text says what is wrong and where.
    """
    text = decode_utf8(body)
    if not text.strip():
        raise InvalidRequestError("the body is empty: send a JSON object")
    try:
        document = _PARSER.decode(text)
    except json.JSONDecodeError as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequestError("the body is nested too deeply") from error
    if _SURROGATE.search(text):
        _refuse_lone_surrogates(text)
    return document


def refuse_repeated_keys(text: str) -> None:
    """Check valid JSON for repeated keys.

    Raises:
        InvalidRequestError: An object contains a key twice.
    """
    _KEY_CHECKER.decode(text)


def decode_utf8(body: bytes) -> str:
    """Return the body's text without the byte order mark that some clients add.

    Raises:
        InvalidRequestError: It is not UTF-8.
    """
    try:
        return body.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        found = _BYTE_ORDER_MARKS.get(body[:2])
        problem = f"it is {found}" if found else f"byte {error.start} is not UTF-8"
        raise InvalidRequestError(f"the body must be JSON in UTF-8: {problem}") from error


def shown(name: str) -> str:
    """Return a key as an error may show it: on one line and short."""
    cut = name[:_NAME_CHARACTERS]
    kept = cut if cut.isprintable() else repr(cut)[1:-1]
    return kept if cut == name else f"{kept}…"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        counted = Counter(name for name, _ in pairs)
        twice = shown(next(name for name, count in counted.items() if count > 1))
        message = f"the key `{twice}` occurs twice in one object: send it once"
        raise InvalidRequestError(message, parameter=twice)
    return members


def _check_keys(pairs: list[tuple[str, Any]]) -> None:
    _object(pairs)


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequestError(f"the body is not JSON: {name} is not a number in JSON")


def _integer(digits: str) -> int:
    return int(digits[:_MOST_DIGITS])  # a truncated number is still out of every range


_PARSER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_refuse_constant, parse_int=_integer
)
_KEY_CHECKER: Final = json.JSONDecoder(object_pairs_hook=_check_keys, parse_int=str)


def _refuse_lone_surrogates(text: str) -> None:
    """Raise for half of a surrogate pair, which is not a character and has no UTF-8 form."""
    high = None
    for escape in _ESCAPE.finditer(text):
        unit = int(escape[1], 16) if escape[1] else 0
        if high is not None and (high.end() != escape.start() or not 0xDC00 <= unit < 0xE000):
            _refuse_surrogate(high)
        if high is None and 0xDC00 <= unit < 0xE000:
            _refuse_surrogate(escape)
        high = escape if 0xD800 <= unit < 0xDC00 else None
    if high is not None:
        _refuse_surrogate(high)


def _refuse_surrogate(escape: "re.Match[str]") -> NoReturn:
    place = f"{escape[0]} at character {escape.start()}"
    raise InvalidRequestError(f"a text contains half of a surrogate pair: {place}")
