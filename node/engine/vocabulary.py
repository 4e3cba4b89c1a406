"""A model file's tokens, as far as they matter for prompts and the ends of answers."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from node.engine.gguf_head import Head

_CONTROL: Final = 3
_USER_DEFINED: Final = 4
"""Token types of GGUF (`gguf.TokenType`)."""
_BOS, _EOS = 1, 2
"""SentencePiece's tokens that begin and end a text, used if the file names none."""
_ENDS: Final = (
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
)
"""Tokens with which chat models end a turn. llama.cpp also recognizes them by name, whatever their
type, because many files name only the token that ends a document."""
_ENDS_IF_CONTROL: Final = ("</s>", "[EOS]")
"""These also end a turn, but a text about markup may contain them as ordinary tokens."""
_SPECIAL: Final = (
    ("bos_token", "bos_token_id"),
    ("eos_token", "eos_token_id"),
    ("unk_token", "unknown_token_id"),
    ("sep_token", "seperator_token_id"),  # spelled so in the format
    ("pad_token", "padding_token_id"),
    ("cls_token", "cls_token_id"),
    ("mask_token", "mask_token_id"),
    ("eot_token", "eot_token_id"),
    ("eom_token", "eom_token_id"),
)
"""Tokens with a purpose, by their names in templates, and the fields that name them."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The tokens with a special meaning. Without arguments, SentencePiece's."""

    template: str = ""
    """The chat template; empty if the file has none."""
    control: Mapping[str, int] = field(default_factory=dict)
    """Tokens that only a template may write."""
    defined: Mapping[str, int] = field(default_factory=dict)
    """Tokens that any text may contain: those that the model's makers added (user-defined)."""
    special: Mapping[str, str] = field(default_factory=dict)
    """Text of the tokens that templates know by name, such as `bos_token`."""
    bos: int = _BOS
    adds_bos: bool = True
    """Whether a text begins with `bos` even if the template does not write it."""
    ends: frozenset[int] = frozenset((_EOS,))
    """Tokens that end an answer."""
    characters: Mapping[str, int] = field(default_factory=dict)
    """Tokens of one character, and of one byte as `<0x41>`."""


def read_vocabulary(head: Head) -> Vocabulary:
    """Read the tokens from a file's head.

    Raises:
        DamagedFileError: A field has an invalid value.
    """
    tokens = head.texts("tokenizer.ggml.tokens")
    kinds = head.numbers("tokenizer.ggml.token_type")
    numbers = {text: number for number, text in enumerate(tokens)}
    special = _special(head, len(tokens))
    control = _of_kind(_CONTROL, tokens, kinds)
    ends = {special.get("eos_token", _EOS), *_ends(special, numbers, control)}
    control |= {_text(tokens[end]): end for end in ends if end < len(tokens)}
    defined = _of_kind(_USER_DEFINED, tokens, kinds)
    return Vocabulary(
        template=_template(head),
        control=control,
        defined={text: number for text, number in defined.items() if text not in control},
        special={name: _text(tokens[i]) for name, i in special.items()},
        bos=special.get("bos_token", _BOS),
        adds_bos=bool(head.number("tokenizer.ggml.add_bos_token", 1)),
        ends=frozenset(ends),
        characters=_characters(control, numbers),
    )


def _special(head: Head, count: int) -> dict[str, int]:
    """Return the tokens that the file names by their purpose; some files write -1 for none."""
    named = {name: head.fields.get(f"tokenizer.ggml.{key}") for name, key in _SPECIAL}
    return {name: i for name, i in named.items() if isinstance(i, int) and 0 <= i < count}


def _ends(
    special: Mapping[str, int], numbers: Mapping[bytes, int], control: Mapping[str, int]
) -> Iterator[int]:
    """Yield the tokens that end a turn."""
    yield from (special[name] for name in ("eot_token", "eom_token") if name in special)
    yield from (numbers[end.encode()] for end in _ENDS if end.encode() in numbers)
    yield from (control[end] for end in _ENDS_IF_CONTROL if end in control)


def _of_kind(wanted: int, tokens: list[bytes], kinds: list[int]) -> dict[str, int]:
    pairs = enumerate(zip(tokens, kinds, strict=False))
    return {_text(text): i for i, (text, kind) in pairs if kind == wanted and text}


def _template(head: Head) -> str:
    """Return the template for chats without tools: the unnamed one, or the one called default."""
    for key in ("tokenizer.chat_template", "tokenizer.chat_template.default"):
        if key in head.fields:
            return head.text(key)
    return ""


def _characters(control: Iterable[str], numbers: Mapping[bytes, int]) -> dict[str, int]:
    """Return the tokens that spell the control tokens, character by character."""
    characters = sorted(set("".join(control)))
    spelt = {c: numbers[c.encode()] for c in characters if c.encode() in numbers}
    octets = (f"<0x{octet:02X}>" for octet in range(256))
    return spelt | {name: numbers[name.encode()] for name in octets if name.encode() in numbers}


def _text(token: bytes) -> str:
    return token.decode(errors="replace")
