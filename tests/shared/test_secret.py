"""Bearer tokens let in who has one of them and nobody else."""

import pytest

from shared.secret import BearerTokens, parse_tokens


def test_file_has_a_token_a_line() -> None:
    """Empty lines and comments are no tokens."""
    assert parse_tokens("# people\none\n\n  two  \n#three\n") == ["one", "two"]


@pytest.mark.parametrize("header", ["Bearer one", "bearer two", "BEARER  one ", "Bearer zwölf"])
def test_known_token_is_allowed(header: str) -> None:
    """Any of the tokens will do, whatever the case of the scheme."""
    assert BearerTokens(["one", "two", "zwölf"]).allow(header)


@pytest.mark.parametrize("header", ["", "one", "Bearer", "Bearer ", "Bearer on", "Basic one"])
def test_anything_else_is_not(header: str) -> None:
    """No header, another scheme, or a token that is not quite right does not let in."""
    assert not BearerTokens(["one", "two"]).allow(header)


def test_no_token_lets_nobody_in() -> None:
    """An empty set is not an open door."""
    assert not BearerTokens([]).allow("Bearer ")


def test_replaced_tokens_count_at_once() -> None:
    """After a replacement the old tokens are nothing and the new ones everything."""
    tokens = BearerTokens(["one"])
    tokens.replace(["two"])
    assert not tokens.allow("Bearer one")
    assert tokens.allow("Bearer two")


def test_token_has_a_name_that_does_not_give_it_away() -> None:
    """The same token has the same name, another one another, and neither is in it."""
    tokens = BearerTokens(["one", "two"])
    assert tokens.find("Bearer one") == tokens.find("bearer  one")
    assert tokens.find("Bearer one") != tokens.find("Bearer two")
    assert "one" not in (tokens.find("Bearer one") or "")
    assert tokens.find("Bearer three") is None
