"""Turns prompts into tokens: the model's named tokens by name, other text with its library."""

from collections.abc import Callable, Iterator
from typing import Final

from node.engine.marks import either, without_marks
from node.engine.vocabulary import Vocabulary


class Tokenizer:
    """Encodes text in the tokens of one vocabulary.

    Args:
        vocabulary: The model's vocabulary.
        encode: Encodes text that names no token. Its result for a control token's text is not
            relied on.
    """

    def __init__(self, vocabulary: Vocabulary, encode: Callable[[str], list[int]]) -> None:
        self._vocabulary: Final = vocabulary
        self._encode = encode
        self._names = {**vocabulary.defined, **vocabulary.control}
        self._control = {number: text for text, number in vocabulary.control.items()}
        self._any_name = either(self._names)
        self._defined_name = either(vocabulary.defined)

    def tokenize(self, text: str, *, control_tokens: bool) -> list[int]:
        """Return the tokens of a prompt, with the token that begins a text if the model wants it.

        Args:
            text: The prompt, with the marks of a `Marker` if a template wrote it.
            control_tokens: Whether the text may name control tokens.
        """
        tokens = list(self._tokens(text, control_tokens=control_tokens))
        first = [self._vocabulary.bos] if self._vocabulary.adds_bos else []
        return tokens if tokens[:1] == first else first + tokens

    def _tokens(self, text: str, *, control_tokens: bool) -> Iterator[int]:
        names = self._any_name if control_tokens else self._defined_name
        parts = names.split(text) if names else [text]
        for place, part in enumerate(parts):
            if place % 2:  # the pattern's match
                yield self._names[part]
            elif plain := without_marks(part):
                yield from self._plain(plain)

    def _plain(self, text: str) -> Iterator[int]:
        """Yield the tokens of text; a control token that the library finds in it is spelled out."""
        for token in self._encode(text):
            if token in self._control:
                yield from self._spell(self._control[token])
            else:
                yield token

    def _spell(self, text: str) -> Iterator[int]:
        """Yield tokens for the characters of a text, one by one."""
        known = self._vocabulary.characters
        for character in text:
            if character in known:
                yield known[character]
            else:
                octets = (f"<0x{octet:02X}>" for octet in character.encode())
                yield from (known[octet] for octet in octets if octet in known)
