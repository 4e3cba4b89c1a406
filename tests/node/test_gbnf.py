"""Grammars of JSON schemas allow what matches, nothing else, and name the place of a fault."""

import json
import re
from typing import Any, Final

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.llama_cpp.errors import RefusedError
from node.engine.llama_cpp.gbnf.numbers import Bounds, decimals, integers
from node.engine.llama_cpp.gbnf.pattern import compile_pattern
from node.engine.llama_cpp.gbnf.schema import compile_schema
from tests.gbnf import allows

TREE: Final[dict[str, Any]] = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"of": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            "required": ["of"],
        }
    },
}
WHOLES: Final = st.integers(-3000, 3000)
OPEN: Final = st.tuples(st.booleans(), st.booleans())

CASES: Final[list[tuple[dict[str, Any], list[Any], list[Any]]]] = [
    ({"type": "object"}, [{}, {"a": [1, None, {"b": "c"}]}], [1, [], "x"]),
    ({}, [1, "x", None, [], {}, -1.5e3, True], []),
    ({"type": ["string", "null"]}, ["", 'a"\\\né', None], [1]),
    ({"const": 'a"'}, ['a"'], ["a", 2]),
    ({"enum": ["a\\", 1, None]}, ["a\\", 1, None], ["a", 2]),
    (
        {"properties": {"a": {"type": "integer"}, "b": {}}, "required": ["b", "c"]},
        [{"b": 1, "c": 1}, {"b": 1, "c": {}, "a": 2}],
        [{}, {"a": 1}, {"b": 1}, {"b": 1, "c": 1, "a": "x"}],
    ),
    (
        {"properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}},
        [{}, {"a": 1}, {"b": 2}, {"c": 3}, {"a": 1, "c": 3}, {"a": 1, "b": 2, "c": 3}],
        [{"a": 2}, {"d": 1}],
    ),
    (
        {"properties": {"ab": {"const": 1}}, "additionalProperties": {"type": "null"}},
        [{}, {"ab": 1}, {"ab": 1, "x": None}, {"a": None}, {"abc": None, "b": None}, {"": None}],
        [{"ab": None}, {"a": 1}, {"ab": 1, "x": 2}],
    ),
    ({"additionalProperties": {"type": "null"}}, [{}, {"a": None}], [{"a": 1}]),
    ({"type": "object", "additionalProperties": False}, [{}], [{"a": 1}]),
    ({"type": "array", "items": {"type": "integer"}}, [[], [1], [1, 2, 3]], [["a"], [1, None]]),
    ({"items": {"const": 1}, "minItems": 2, "maxItems": 3}, [[1] * 2, [1] * 3], [[1], [1] * 4]),
    ({"items": {"const": 1}, "minItems": 0, "maxItems": 1}, [[], [1]], [[1, 1]]),
    ({"type": "array", "maxItems": 0}, [[]], [[1]]),
    ({"prefixItems": [{"const": 1}, {"const": 2}]}, [[1, 2]], [[2, 1], [1, 3]]),
    (
        {"prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 2, "maxItems": 3},
        [[1, 2], [1, 2, 2]],
        [[1], [1, 1], [1, 2, 2, 2]],
    ),
    ({"prefixItems": [{"const": 1}], "items": False}, [[1]], [[1, 2]]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", 'é"\n'], ["a", "abcd"]),
    ({"anyOf": [{"type": "integer"}, {"const": "x"}]}, [1, "x"], ["y", None]),
    (
        {
            "type": "object",
            "properties": {"a": {"const": 1}},
            "anyOf": [{"required": ["a"]}, {"properties": {"b": {"const": 2}}, "required": ["b"]}],
        },
        [{"a": 1}, {"b": 2}, {"b": 2, "a": 1}],
        [{}, {"a": 2}],
    ),
    (
        {
            "allOf": [
                {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                {"properties": {"a": {"minimum": 5}, "b": {}}, "required": ["b"]},
            ]
        },
        [{"a": 5, "b": None}],
        [{"a": 4, "b": 1}, {"a": 5}],
    ),
    (TREE, [{"of": []}, {"of": [{"of": []}]}], [{}, {"of": [1]}]),
    ({"format": "date"}, ["2024-02-29", "2023-12-31"], ["2023-04-31", "2023-13-01", "x"]),
    ({"format": "date-time"}, ["2023-12-31T23:59:59.5Z"], ["2023-12-31", "2023-12-31T24:00:00Z"]),
    ({"format": "uuid"}, ["12345678-90ab-cdef-1234-567890abcdef"], ["x"]),
    ({"format": "email"}, ["anything"], [1]),
    ({"type": "integer", "minimum": 1, "title": "x", "default": 0}, [1, 99], [0, -5]),
    ({"type": "object", "properties": {"": {"const": 1}}}, [{}, {"": 1}], [{"a": 1}]),
]


@pytest.mark.parametrize(("schema", "right", "wrong"), CASES)
def test_grammar_is_that_of_the_schema(
    schema: dict[str, Any], right: list[Any], wrong: list[Any]
) -> None:
    """It allows what matches, written compactly or with blanks, and forbids what does not."""
    grammar = compile_schema(schema)
    for value in right:
        jsonschema.validate(value, schema)
        for indent, separators in ((None, (",", ":")), (None, (", ", ": ")), (2, None)):
            text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
            assert allows(grammar, text), text
    for value in wrong:
        assert not allows(grammar, json.dumps(value)), value
    assert not allows(grammar, "")
    assert not allows(grammar, "{")


def test_fixed_object_is_written_in_one_form() -> None:
    """A constant is allowed as `json.dumps` writes it."""
    value = {"a": ['"', 1], "b": {}}
    assert allows(compile_schema({"const": value}), json.dumps(value))


@given(st.lists(WHOLES, min_size=2, max_size=2), OPEN, WHOLES)
def test_integers_are_those_between_the_bounds(
    ends: list[int], are_open: tuple[bool, bool], number: int
) -> None:
    """Each integer is allowed if, and only if, it is within the bounds."""
    low, high = sorted(ends)
    is_low_open, is_high_open = are_open
    allowed = integers(Bounds(low, high, is_low_open, is_high_open)) or '"x"'
    for one in {number, low - 1, low, low + 1, 0, high - 1, high, high + 1}:
        is_inside = low + is_low_open <= one <= high - is_high_open
        assert allows(f"root ::= {allowed}", str(one)) == is_inside


@given(
    st.lists(st.decimals(-30, 30, places=2), min_size=2, max_size=2, unique=True),
    OPEN,
    st.decimals(-31, 31, places=3),
)
def test_decimals_are_between_the_bounds(
    ends: list[Any], are_open: tuple[bool, bool], number: Any
) -> None:
    """What is allowed is within the bounds."""
    low, high = sorted(map(float, ends))
    is_low_open, is_high_open = are_open
    allowed = decimals(Bounds(low, high, is_low_open, is_high_open)) or '"x"'
    for one in {str(number), str(int(number)), repr(low), repr(high)}:
        if allows(f"root ::= {allowed}\nwhole ::= [0-9]", one):
            assert low <= float(one) <= high
            assert not (is_low_open and float(one) == low)
            assert not (is_high_open and float(one) == high)


@pytest.mark.parametrize("text", ["0", "1", "0.5", "0.25", "1.0"])
def test_share_is_allowed(text: str) -> None:
    """The numbers from 0 to 1, which many schemas ask for, can be written."""
    grammar = compile_schema({"type": "number", "minimum": 0, "maximum": 1})
    assert allows(grammar, text)
    assert not allows(grammar, "1.5")
    assert not allows(grammar, f"-{text}")


PATTERNS: Final = [
    (r"^[a-z]{2,4}$", ["ab", "abcd"], ["a", "abcde", "AB"]),
    (r"^(\+1)?\d{3}-\d{4}$", ["555-1234", "+1555-1234"], ["x"]),
    (r"^(a|b|c\.)+$", ["a", "abc.", "c.c."], ["", "c", "d"]),
    (r"^[^a-y\s]*$", ["", "z!", "é"], ["a", " "]),
    (r"^\w+@\w+\.(com|org)$", ["a@b.com"], ["a@b.net"]),
    (r'^["\\\n]x$', ['"x', "\\x", "\nx"], ["x", "ax"]),
    (r"b", ["b", "abc"], ["a", ""]),
    (r"^a", ["a", "ab"], ["ba"]),
    (r"a\$$", ["a$", "xa$"], ["a"]),
    (r"^\u00e9\x41.$", ["éA-"], ["eA-", "éA"]),
    (r"^a{2}b{1,}c?$", ["aab", "aabbc"], ["ab", "aac"]),
    (r"^[\d-]{1,3}$", ["1-2"], ["a", ""]),
    (r"^(?:x(?<y>y)?)*$", ["", "xyx"], ["y"]),
    (r"^x{,2}$", ["x{,2}"], ["xx"]),
]


@pytest.mark.parametrize(("pattern", "right", "wrong"), PATTERNS)
def test_pattern_is_followed(pattern: str, right: list[str], wrong: list[str]) -> None:
    """Strings in which the pattern is found are allowed, with their escapes, and no others."""
    grammar = compile_schema({"type": "string", "pattern": pattern})
    for text in right:
        assert allows(grammar, json.dumps(text, ensure_ascii=False)), text
    for text in wrong:
        assert not allows(grammar, json.dumps(text, ensure_ascii=False)), text


@given(st.text("ab01^$|()[]{}*+?.\\-,dwsnu ", max_size=12))
def test_any_pattern_is_compiled_or_refused(pattern: str) -> None:
    """Nothing else happens, and what is compiled is a group of the notation."""
    try:
        compiled = compile_pattern(pattern, "#/pattern")
    except RefusedError as error:
        assert str(error).startswith("the schema cannot be followed: at #/pattern: ")  # noqa: PT017
    else:
        assert re.compile(re.sub(r'"(?:[^"\\]|\\.)*"', "x", compiled))


DEEP: Final = json.loads('{"items":' * 200 + "{}" + "}" * 200)

FAULTS: Final[list[tuple[Any, str]]] = [
    ({"properties": {"age": {"type": "integr"}}}, "#/properties/age: unrecognized type integr"),
    ({"properties": {"a": {"items": 5}}}, "#/properties/a/items: this is not a schema"),
    ({"properties": []}, "#: Expected `object | null`, got `array` - at `$.properties`"),
    ({"minLength": -1}, "#: Expected `int` >= 0 - at `$.minLength`"),
    ({"minLength": 70000}, "#: more than 65536 repetitions"),
    ({"$ref": "#"}, "#: the reference # leads back to itself"),
    ({"$ref": "#/$defs/a"}, "#: the reference #/$defs/a leads nowhere"),
    ({"$ref": "http://x/y"}, "#: the reference http://x/y does not begin with #"),
    (
        {"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}},
        "#/$defs/a: the schema is nested too deeply",
    ),
    ({"allOf": [{"type": "string"}, {"type": "null"}]}, "#: type is given twice"),
    ({"anyOf": [{"enum": []}]}, "#/anyOf/0/enum: nothing matches"),
    ({"items": False, "minItems": 1}, "#/items: nothing matches"),
    ({"type": "number", "minimum": 0.2, "maximum": 0.8}, "#: the bounds have no whole number"),
    ({"pattern": "^(?=a)$"}, "#/pattern: the pattern at character 1: groups that look around"),
    ({"pattern": "^(a*)*$"}, "#/pattern: the pattern at character 5: it repeats what may be empty"),
    ({"pattern": "^[a$"}, "#/pattern: the pattern at character 2: it ends too early"),
    ({"pattern": r"^(a)\1$"}, r"#/pattern: the pattern at character 5: \1 is not known"),
    ({"patternProperties": {"a": {}}}, "#/patternProperties: more properties are allowed"),
    (DEEP, "/items: the schema is nested too deeply"),
    ({"enum": ["x" * 2**21]}, "it is too large"),
]


@pytest.mark.parametrize(("schema", "fault"), FAULTS)
def test_fault_is_told_with_its_place(schema: Any, fault: str) -> None:
    """A schema that no grammar can say is refused."""
    with pytest.raises(RefusedError) as refused:
        compile_schema(schema)
    assert fault in str(refused.value)


def test_large_schema_is_refused_before_it_costs() -> None:
    """Compiling stops at a limit of rules."""
    properties = {f"p{n}": {"type": "string", "maxLength": n} for n in range(3000)}
    with pytest.raises(RefusedError, match="it is too large"):
        compile_schema({"properties": properties})


def test_repetitions_within_repetitions_stay_small() -> None:
    """Each level writes the one below once, not several times."""
    pattern = "(" * 30 + "a" + "{1,249})" * 30
    with pytest.raises(RefusedError) as refused:
        compile_schema({"pattern": pattern + "("})
    assert "#/pattern" in str(refused.value)
    assert len(compile_schema({"pattern": pattern})) < 10_000


WORDS: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.text("a#/$^", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("type", "properties", "required", "items", "prefixItems", "anyOf", "allOf"),
                    *("$ref", "minItems", "maxItems", "minimum", "exclusiveMaximum", "pattern"),
                    *("enum", "const", "additionalProperties", "minLength", "$defs", "a"),
                ]
            ),
            inner | st.sampled_from(["string", "object", "array", "integer", "#", "#/$defs/a"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["properties", "items", "anyOf", "allOf", "$defs"]), WORDS))
def test_any_schema_is_compiled_or_refused(schema: dict[str, Any]) -> None:
    """Whatever JSON is sent as a schema, the outcome is a grammar or a refusal with its place."""
    try:
        grammar = compile_schema(schema)
    except RefusedError as error:
        assert "the schema cannot be followed: at #" in str(error)  # noqa: PT017
    else:
        names = dict(line.split(" ::= ", 1) for line in grammar.splitlines())
        used = set(re.findall(r"\brule-\d+\b", grammar))
        assert used <= names.keys()
        assert all(names[name] for name in used)


@pytest.mark.parametrize(
    ("least", "most"), [(0, 101), (7, 149), (60, 60), (51, 151), (100, 250), (120, None)]
)
def test_many_repetitions_are_counted(least: int, most: int | None) -> None:
    """Written in blocks, they allow each number from the least to the most, and no other."""
    schema = {"type": "string", "minLength": least} | ({} if most is None else {"maxLength": most})
    grammar = compile_schema(schema)
    allowed = {n for n in range(260) if allows(grammar, f'"{"a" * n}"')}
    assert allowed == set(range(least, 260 if most is None else most + 1))
