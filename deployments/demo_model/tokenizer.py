"""An SPM tokenizer that encodes like llama.cpp's, and the training of its vocabulary.

llama.cpp prefixes a text with a space, writes spaces as U+2581, splits it into characters and
joins the neighbouring pair whose union has the highest score until no union is in the vocabulary;
a character outside the vocabulary becomes its UTF-8 bytes (``llm_tokenizer_spm``).
"""

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

SPACE = "\u2581"
CONTROL_WORDS = ("<unk>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>")
UNKNOWN, BEGIN, END, SYSTEM, USER, ASSISTANT = range(len(CONTROL_WORDS))
FIRST_BYTE = len(CONTROL_WORDS)
WHOLE_WORD_COUNT = 10**9  # more than any training text has
CHARACTERS = (SPACE, *(chr(code) for code in range(0x21, 0x7F)))

# Token types of GGUF (``llama_token_type``).
NORMAL_TYPE, UNKNOWN_TYPE, CONTROL_TYPE, BYTE_TYPE = 1, 2, 3, 6

# No piece crosses a word's start or joins letters to punctuation.
_PIECES_WITHIN = re.compile(rf"{SPACE}?(?:[A-Za-z]+|[^A-Za-z{SPACE}])|{SPACE}")
_WORDS = re.compile(rf"{SPACE}?[^{SPACE}]+|{SPACE}")
_CONTROLS = re.compile("(" + "|".join(re.escape(word) for word in CONTROL_WORDS) + ")")


class Token(NamedTuple):
    """One entry of the vocabulary as GGUF stores it."""

    text: str
    score: float
    type: int


class Tokenizer:
    """Encodes and decodes with a vocabulary whose order is the order of its token ids."""

    def __init__(self, pieces: Iterable[str]) -> None:
        """Take the pieces that follow the control and byte tokens, the first merges first."""
        self.tokens = [*_fixed_tokens(), *_scored(pieces)]
        self._ids = {token.text: index for index, token in enumerate(self.tokens)}
        self._encode_word = lru_cache(maxsize=None)(self._join_characters)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text in which control words count as plain text; none if it is empty."""
        if not text:
            return []
        spaced = (" " + text).replace(" ", SPACE)
        return [token for word in _WORDS.findall(spaced) for token in self._encode_word(word)]

    def encode_with_controls(self, text: str) -> list[int]:
        """Token ids with control words as their tokens and each text between encoded alone."""
        tokens: list[int] = []
        for part in _CONTROLS.split(text):
            is_control = part in CONTROL_WORDS
            tokens += [CONTROL_WORDS.index(part)] if is_control else self.encode(part)
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of the tokens without control tokens, its spaces kept."""
        return b"".join(self._bytes(token) for token in tokens).decode("utf-8", "replace")

    def _bytes(self, token: int) -> bytes:
        text, _, kind = self.tokens[token]
        if kind == BYTE_TYPE:
            return bytes([token - FIRST_BYTE])
        return text.replace(SPACE, " ").encode() if kind == NORMAL_TYPE else b""

    def _join_characters(self, word: str) -> tuple[int, ...]:
        parts = list(word)
        while True:
            ranks = [self._rank(left + right) for left, right in pairwise(parts)]
            if not ranks or (best := max(ranks)) == float("-inf"):
                return tuple(token for part in parts for token in self._part_ids(part))
            place = ranks.index(best)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]

    def _rank(self, piece: str) -> float:
        index = self._ids.get(piece)
        return float("-inf") if index is None else self.tokens[index].score

    def _part_ids(self, part: str) -> list[int]:
        if part in self._ids:
            return [self._ids[part]]
        return [FIRST_BYTE + byte for byte in part.encode()]


def train_pieces(
    texts: Iterable[str], vocabulary_size: int, whole_words: Iterable[str]
) -> list[str]:
    """The pieces of a byte-pair vocabulary for the texts, merges first, then characters.

    Each of the whole words becomes one piece, with a space before it.
    Source of the method: Sennrich et al. 2016, https://aclanthology.org/P16-1162.
    """
    counts = _count_words(texts)
    # Merged before everything else, so that no other merge can split them.
    counts.update({SPACE + word: WHOLE_WORD_COUNT for word in whole_words})
    merges: dict[str, None] = {}  # a piece can come from two pairs, but counts once
    splits = {word: tuple(word) for word in counts}
    while len(merges) + FIRST_BYTE + 256 + len(CHARACTERS) < vocabulary_size:
        pair = _commonest_pair(splits, counts)
        merges["".join(pair)] = None
        splits = {word: _merge(parts, pair) for word, parts in splits.items()}
    return [*merges, *CHARACTERS]


def _fixed_tokens() -> list[Token]:
    controls = [Token(word, 0.0, CONTROL_TYPE) for word in CONTROL_WORDS]
    controls[UNKNOWN] = Token(CONTROL_WORDS[UNKNOWN], 0.0, UNKNOWN_TYPE)
    return controls + [Token(f"<0x{byte:02X}>", 0.0, BYTE_TYPE) for byte in range(256)]


def _scored(pieces: Iterable[str]) -> list[Token]:
    return [Token(piece, -float(rank), NORMAL_TYPE) for rank, piece in enumerate(pieces)]


def _count_words(texts: Iterable[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_PIECES_WITHIN.findall((" " + text).replace(" ", SPACE)))
    allowed = set(CHARACTERS)
    return Counter({word: count for word, count in counts.items() if allowed.issuperset(word)})


def _commonest_pair(splits: dict[str, tuple[str, ...]], counts: Counter[str]) -> tuple[str, str]:
    pairs: Counter[tuple[str, str]] = Counter()
    for word, parts in splits.items():
        for pair in pairwise(parts):
            pairs[pair] += counts[word]
    # The pair itself breaks ties, so that the vocabulary does not hang on dictionary order.
    return max(pairs, key=lambda pair: (pairs[pair], pair))


def _merge(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return tuple(merged)
