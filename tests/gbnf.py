"""Follows grammars in GBNF: whether one allows a text."""

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

_TOKEN: Final = re.compile(
    r'"(?P<text>(?:[^"\\]|\\.)*)"|(?P<set>\[(?:[^\]\\]|\\.)*\])|(?P<name>[a-z][a-z0-9-]*)'
    r"|(?P<times>[*+?]|\{[0-9,]+\})|(?P<sign>[()|])| +"
)
_TIMES: Final = {"*": (0, 10**9), "+": (1, 10**9), "?": (0, 1)}
Ends = frozenset[int]
Expression = Callable[[int], Ends]
"""Where a match that begins at a place may end."""


def allows(grammar: str, text: str) -> bool:
    """Return whether a grammar allows the whole text."""
    return len(text) in _Follower(grammar, text).rule("root")(0)


class _Follower:
    def __init__(self, grammar: str, text: str) -> None:
        self._bodies = dict(line.split(" ::= ", 1) for line in grammar.splitlines())
        self._rules: dict[str, Expression] = {}
        self._text = text

    def rule(self, name: str) -> Expression:
        """Return the expression of a rule, which is read when it is used."""

        def follow(place: int) -> Ends:
            if name not in self._rules:
                self._rules[name] = cache(self._choice(_TOKEN.finditer(self._bodies[name])))
            return self._rules[name](place)

        return follow

    def _choice(self, tokens: Iterator[re.Match[str]]) -> Expression:
        choices: list[list[Expression]] = [[]]
        for token in tokens:
            sequence = choices[-1]
            if token["sign"] == ")":
                break
            if token["sign"] == "|":
                choices.append([])
            elif token["sign"] == "(":
                sequence.append(self._choice(tokens))
            elif token["times"]:
                sequence.append(_repeated(sequence.pop(), token["times"]))
            elif token["name"]:
                sequence.append(self.rule(token["name"]))
            elif token[0].strip():
                sequence.append(self._characters(token))
        return lambda place: frozenset().union(*(_follow(one, place) for one in choices))

    def _characters(self, token: re.Match[str]) -> Expression:
        pattern = re.compile(token["set"] or re.escape(_unescaped(token["text"])))

        def follow(place: int) -> Ends:
            found = pattern.match(self._text, place)
            return frozenset((found.end(),)) if found else frozenset()

        return follow


def _follow(sequence: list[Expression], place: int) -> Ends:
    ends = frozenset((place,))
    for one in sequence:
        ends = _after(one, ends)
    return ends


def _after(expression: Expression, places: Ends) -> Ends:
    return frozenset(end for place in places for end in expression(place))


def _repeated(expression: Expression, times: str) -> Expression:
    if times in _TIMES:
        least, most = _TIMES[times]
    else:
        low, *high = times.strip("{}").split(",")
        least, most = int(low), int((high or [low])[0] or 10**9)

    def follow(place: int) -> Ends:
        ends, found, number = frozenset((place,)), frozenset[int](), 0
        while ends and number <= most:
            if number >= least:
                if ends <= found:
                    break
                found |= ends
            ends, number = _after(expression, ends), number + 1
        return found

    return follow


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), text)
