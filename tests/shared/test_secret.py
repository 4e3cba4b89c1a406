"""Bearer tokens admit the clients that have one of them, and no others."""

import codecs

import pytest

from shared.secret import (
    TOKEN_CHARACTERS,
    TOKEN_FILE_BYTES,
    BearerTokens,
    bearer_token,
    parse_bearer_tokens,
    parse_tokens,
)


def test_file_has_a_token_a_line() -> None:
    """Empty lines and comments are not tokens."""
    assert parse_tokens("# people\none\n\n  two  \n#three\n") == ["one", "two"]


@pytest.mark.parametrize(
    "content",
    [
        b"one\ntwo\n",
        b"one\r\ntwo\r\n",
        b"one\rtwo",
        b"  one\t\n\n   \n# comment\ntwo",
        codecs.BOM_UTF8 + b"one\n#zw\xc3\xb6lf\ntwo",
        codecs.BOM_UTF8 + b"# people\none\ntwo",
    ],
)
def test_file_may_come_from_any_editor(content: bytes) -> None:
    """Line ends, byte order marks, spaces and empty lines are not part of a token."""
    assert parse_bearer_tokens(content) == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no key"),
        (b"\n \n# none\n", "no key"),
        (codecs.BOM_UTF8, "no key"),
        ("sk-zwölf".encode(), "line 1 .* not ASCII"),
        ("one\nsk-zwölf".encode(), "line 2 .* not ASCII"),
        ("sk-zwölf".encode("latin-1"), "not UTF-8"),
        ("sk-one".encode("utf-16"), "not UTF-8"),
        ("sk-one".encode("utf-16-le"), "line 1 .* not ASCII"),
        (b"one two", "line 1 contains a space"),
        (b"one\x00", "line 1"),
        (b"x" * (TOKEN_CHARACTERS + 1), "line 1 is longer"),
        (b"one\n" * TOKEN_FILE_BYTES, "larger than"),
    ],
)
def test_key_that_no_header_can_carry_is_refused(content: bytes, told: str) -> None:
    """A malformed key is refused at the start, and the error does not show it."""
    with pytest.raises(ValueError, match=told) as refused:
        parse_bearer_tokens(content)
    assert "sk-" not in str(refused.value)


def test_longest_key_is_taken() -> None:
    """The longest allowed token is accepted, a longer one is not."""
    assert parse_bearer_tokens(b"x" * TOKEN_CHARACTERS) == ["x" * TOKEN_CHARACTERS]


@pytest.mark.parametrize(
    ("header", "token"),
    [("", ""), ("Bearer", ""), ("Bearer ", ""), ("Basic b25l", ""), ("one", ""), ("Bearer x", "x")],
)
def test_missing_token_is_told_apart_from_a_wrong_one(header: str, token: str) -> None:
    """A header of another scheme carries no token."""
    assert bearer_token(header) == token


@pytest.mark.parametrize("header", ["Bearer one", "bearer two", "BEARER  one "])
def test_known_token_is_allowed(header: str) -> None:
    """Each of the tokens is accepted, with the scheme in any case."""
    assert BearerTokens(["one", "two"]).allow(header)


@pytest.mark.parametrize("header", ["", "one", "Bearer", "Bearer ", "Bearer on", "Basic one"])
def test_anything_else_is_not(header: str) -> None:
    """A missing header, another scheme and a nearly correct token are refused."""
    assert not BearerTokens(["one", "two"]).allow(header)


def test_no_token_lets_nobody_in() -> None:
    """An empty set of tokens admits no one."""
    assert not BearerTokens([]).allow("Bearer ")


def test_replaced_tokens_count_at_once() -> None:
    """After a replacement only the new tokens are accepted."""
    tokens = BearerTokens(["one"])
    tokens.replace(["two"])
    assert not tokens.allow("Bearer one")
    assert tokens.allow("Bearer two")


def test_token_has_a_name_that_does_not_give_it_away() -> None:
    """A token's name depends on the token only and does not reveal it."""
    tokens = BearerTokens(["one", "two"])
    assert tokens.find("Bearer one") == tokens.find("bearer  one")
    assert tokens.find("Bearer one") != tokens.find("Bearer two")
    assert "one" not in (tokens.find("Bearer one") or "")
    assert tokens.find("Bearer three") is None
