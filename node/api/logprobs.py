"""The likelihoods of an answer's tokens, in OpenAI's two forms: of chats and of completions."""

import codecs
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from node.requests.request import Token


class TopLogprob(msgspec.Struct, frozen=True):
    """A likely token at a position."""

    token: str
    """Its text; a part of a character as escapes, such as `\\xf0`."""
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token of an answer."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """The tokens of a chat's answer, also of its thoughts and calls."""

    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """The tokens of a completion, each at the same place of each list."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """Null for the first token of a prompt."""
    top_logprobs: list[dict[str, float] | None]
    """The likeliest tokens and the token itself."""
    text_offset: list[int]
    """Where each token begins in the text, in characters."""


Log = ChatLogprobs | CompletionLogprobs


class TokenLog(Protocol):
    """Describes the tokens of one answer, piece by piece."""

    def take(self, tokens: Sequence[Token]) -> Log | None:
        """Return the next tokens' likelihoods; None without tokens."""


class ChatLog:
    """Describes the tokens of a chat's answer.

    Args:
        top: How many likely tokens to show at each position.
    """

    def __init__(self, top: int) -> None:
        self._top = top

    def take(self, tokens: Sequence[Token]) -> ChatLogprobs | None:
        """Return the next tokens' likelihoods; None without tokens."""
        return ChatLogprobs(token_logprobs(tokens, self._top)) if tokens else None


class CompletionLog:
    """Describes the tokens of a completion, whose text may begin with the prompt.

    Args:
        top: How many likely tokens to show at each position.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def take(self, tokens: Sequence[Token]) -> CompletionLogprobs | None:
        """Return the next tokens' likelihoods; None without tokens."""
        if not tokens:
            return None
        return CompletionLogprobs(
            [_name(token.piece) for token in tokens],
            [None if (one := token.likelihood) is None else one.logprob for token in tokens],
            [self._likeliest(token) for token in tokens],
            [self._advance(token.piece) for token in tokens],
        )

    def _likeliest(self, token: Token) -> dict[str, float] | None:
        if token.likelihood is None:
            return None
        top = token.likelihood.top[: self._top]
        named = {_name(one.piece): one.logprob for one in reversed(top)}
        return {**dict(reversed(named.items())), _name(token.piece): token.likelihood.logprob}

    def _advance(self, piece: bytes) -> int:
        """Return where a token begins; the next one begins after it."""
        start = self._offset
        self._offset += len(self._decoder.decode(piece))
        return start


def token_logprobs(tokens: Iterable[Token], top: int) -> list[TokenLogprob]:
    """Return the likelihoods of tokens in the form of chats.

    Args:
        tokens: The tokens, each with its likelihood.
        top: How many likely tokens to show at each position.
    """
    return [
        TokenLogprob(
            _escaped(token.piece),
            likelihood.logprob,
            list(token.piece),
            [
                TopLogprob(_escaped(one.piece), one.logprob, list(one.piece))
                for one in likelihood.top[:top]
            ],
        )
        for token in tokens
        if (likelihood := token.likelihood) is not None
    ]


def _escaped(piece: bytes) -> str:
    return piece.decode(errors="backslashreplace")


def _name(piece: bytes) -> str:
    """Return a token's text; a part of a character as `bytes:` and escapes, as at OpenAI."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{octet:02x}" for octet in piece)
