"""The vocabularies of the models with random weights: one of each kind that llama.cpp knows."""

import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import gguf

_WORDS: Final = 200
_MARK: Final = "\N{LOWER ONE EIGHTH BLOCK}"
"""SentencePiece's mark for a space; llama.cpp also writes it before the words of WordPiece."""


@dataclass(frozen=True)
class Tokens:
    """A vocabulary."""

    texts: list[str]
    kinds: Sequence[int]
    write: Callable[[gguf.GGUFWriter], None]
    """Writes everything besides the two lists."""

    @property
    def spoken(self) -> list[bool]:
        """Whether each token is printable ASCII, so that a model may answer with it."""
        printable = set(string.ascii_letters + string.digits + string.punctuation + _MARK + "Ġ")
        return [
            kind == gguf.TokenType.NORMAL and set(text) <= printable
            for text, kind in zip(self.texts, self.kinds, strict=True)
        ]


def sentence_piece() -> Tokens:
    """Return a vocabulary as llama, gemma and phi3 have it."""
    control = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    octets = [f"<0x{octet:02X}>" for octet in range(256)]
    pieces = [_MARK, *string.ascii_lowercase, *string.digits, *_words(_MARK)]
    kinds = [
        gguf.TokenType.UNKNOWN,
        *[gguf.TokenType.CONTROL] * (len(control) - 1),
        *[gguf.TokenType.BYTE] * len(octets),
        *[gguf.TokenType.NORMAL] * len(pieces),
    ]
    texts = [*control, *octets, *pieces]

    def write(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([-float(index) for index in range(len(texts))])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_eot_token_id(4)
        writer.add_unk_token_id(0)

    return Tokens(texts, kinds, write)


def byte_pairs(pre_tokenizer: str) -> Tokens:
    """Return a vocabulary as GPT-2, Llama 3 and Qwen have it: bytes and merges of them."""
    octets = [_byte_character(octet) for octet in range(256)]
    merges = [f"Ġ {letter}" for letter in string.ascii_lowercase]
    merges += [f"{pair[0]} {pair[1]}" for pair in dict.fromkeys(w[:2] for w in _words(""))]
    control = ["<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"]
    texts = [*octets, *(merge.replace(" ", "") for merge in merges), *control]
    kinds = [gguf.TokenType.NORMAL] * (len(texts) - len(control))
    kinds += [gguf.TokenType.CONTROL] * len(control)
    first = len(texts) - len(control)

    def write(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre_tokenizer)
        writer.add_token_merges(merges)
        writer.add_bos_token_id(first)
        writer.add_eos_token_id(first + 1)
        writer.add_eot_token_id(first + 3)
        writer.add_add_bos_token(pre_tokenizer == "llama-bpe")

    return Tokens(texts, kinds, write)


def word_pieces() -> Tokens:
    """Return a vocabulary as BERT has it."""
    control = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    starts = [_MARK + letter for letter in string.ascii_lowercase + string.digits]
    pieces = [*starts, *string.ascii_lowercase, *string.digits, *_words(_MARK)]
    kinds = [gguf.TokenType.CONTROL] * len(control) + [gguf.TokenType.NORMAL] * len(pieces)
    kinds[1] = gguf.TokenType.UNKNOWN

    def write(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("bert")
        writer.add_token_type_count(2)
        writer.add_pad_token_id(0)
        writer.add_unk_token_id(1)
        writer.add_uint32("tokenizer.ggml.cls_token_id", 2)
        writer.add_bos_token_id(2)
        writer.add_sep_token_id(3)
        writer.add_eos_token_id(3)
        writer.add_mask_token_id(4)

    return Tokens([*control, *pieces], kinds, write)


def _words(start: str) -> Iterable[str]:
    letters = string.ascii_lowercase
    return [
        start + letters[n % 26] + letters[n * 7 % 25] + letters[n * 3 % 23] for n in range(_WORDS)
    ]


def _byte_character(octet: int) -> str:
    """Return the character by which byte-level BPE writes a byte (GPT-2's `bytes_to_unicode`)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if octet in shown:
        return chr(octet)
    return chr(256 + sum(other not in shown for other in range(octet)))
