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
