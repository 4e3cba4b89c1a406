"""Reads from a PromQL query which metrics and labels it names.

No more than that: whether a query is right is for Prometheus to say, and the tests ask it too.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_TOKEN: Final = re.compile(
    r"""
    (?P<comment>\#[^\n]*)
  | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`)
  | (?P<range>\[[^\]]*\])
  | (?P<number>[0-9][0-9a-zA-Z.]*)
  | (?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
  | (?P<sign>=~|!~|!=|[^\s])
    """,
    re.VERBOSE,
)
_GROUPINGS: Final = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_AGGREGATIONS: Final = frozenset(
    [
        "sum",
        "min",
        "max",
        "avg",
        "group",
        "stddev",
        "stdvar",
        "count",
        "count_values",
        "bottomk",
        "topk",
        "quantile",
    ]
)
_WORDS: Final = frozenset({"and", "or", "unless", "offset", "bool", "atan2", "inf", "nan"})


@dataclass(frozen=True)
class Matcher:
    """A label with what it has to be."""

    label: str
    operator: str
    value: str

    @property
    def values(self) -> tuple[str, ...]:
        """The values that it names, where it names some and not a pattern."""
        if self.operator in ("=", "!="):
            return (self.value,)
        parts = tuple(self.value.split("|"))
        return parts if all(re.fullmatch(r"\w+", part) for part in parts) else ()


@dataclass
class Named:
    """What a query names."""

    selectors: list[tuple[str, tuple[Matcher, ...]]] = field(default_factory=list)
    """Metrics with their matchers."""
    grouped: set[str] = field(default_factory=set)
    """Labels to group or match by."""
    kept: set[str] = field(default_factory=set)
    """Of these, the ones of a `by`."""
    made: set[str] = field(default_factory=set)
    """Labels that `label_replace` makes."""

    @property
    def metrics(self) -> set[str]:
        """Names of the metrics."""
        return {name for name, _ in self.selectors}


def fill_in(query: str, rate_interval: str = "1m", whole: str = "1h", node: str = "node1") -> str:
    """Give a panel's query as Grafana would send it, with `All` for each variable.

    A row that is repeated for each node has one node in its queries.
    """
    query = query.replace('="$node"', f'="{node}"')
    query = query.replace("$__rate_interval", rate_interval).replace("$__range", whole)
    return re.sub(r"\$\{?\w+\}?", ".*", query)


def read(query: str) -> Named:
    """Give what a query names.

    Raises:
        ValueError: It is none that this reader knows.
    """
    tokens = [*_tokens(query), ("end", "")]
    named = Named()
    at = 0
    while tokens[at][0] != "end":
        kind, text = tokens[at]
        at += 1
        if kind == "sign" and text == "{":
            raise ValueError(f"a selector without a metric's name: {query}")
        if kind != "name" or text.lower() in _WORDS:
            continue
        if text in _GROUPINGS:
            at, labels = _labels(tokens, at)
            named.grouped |= labels
            named.kept |= labels if text == "by" else set()
        elif text == "label_replace":
            named.made.add(_made(tokens, at))
        elif tokens[at][1] != "(" and text not in _AGGREGATIONS:
            at, matchers = _matchers(tokens, at)
            named.selectors.append((text, matchers))
    return named


_Tokens = list[tuple[str, str]]


def _tokens(query: str) -> Iterator[tuple[str, str]]:
    for found in _TOKEN.finditer(query):
        if found.lastgroup != "comment":
            yield str(found.lastgroup), found[0]


def _labels(tokens: _Tokens, at: int) -> tuple[int, set[str]]:
    """Read `(a, b)`; `group_left` may have none."""
    labels: set[str] = set()
    if tokens[at][1] != "(":
        return at, labels
    while tokens[at][1] != ")":
        if tokens[at][0] == "name":
            labels.add(tokens[at][1])
        at += 1
    return at + 1, labels


def _matchers(tokens: _Tokens, at: int) -> tuple[int, tuple[Matcher, ...]]:
    """Read `{a="b", …}`, or nothing."""
    matchers: list[Matcher] = []
    if tokens[at][1] != "{":
        return at, ()
    at += 1
    while tokens[at][1] != "}":
        (kind, label), (_, operator), (value_kind, value) = tokens[at : at + 3]
        if kind != "name" or value_kind != "string":
            raise ValueError(f"no matcher: {label}{operator}{value}")
        matchers.append(Matcher(label, operator, value[1:-1]))
        at += 3
        if tokens[at][1] == ",":
            at += 1
    return at + 1, tuple(matchers)


def _made(tokens: _Tokens, at: int) -> str:
    """Find the second argument of a call."""
    depth = 0
    while True:
        text = tokens[at][1]
        depth += (text in "({") - (text in ")}") if text else 0
        if depth == 1 and text == ",":
            return tokens[at + 1][1][1:-1]
        at += 1
