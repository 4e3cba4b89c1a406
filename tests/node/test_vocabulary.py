"""The vocabulary of a model file: tokens that end an answer, control tokens, the template."""

import array
from typing import Any, Final

import pytest

from node.engine.gguf_head import Head
from node.engine.vocabulary import Vocabulary, read_vocabulary

TOKENS: Final = [b"<unk>", b"<s>", b"</s>", b"<|im_end|>", b"<end_of_turn>", b"<tool>", b"a", b"<"]
UNKNOWN, NORMAL, CONTROL, DEFINED = 2, 1, 3, 4
KINDS: Final = [UNKNOWN, CONTROL, CONTROL, NORMAL, NORMAL, DEFINED, NORMAL, NORMAL]


def read(**fields: Any) -> Vocabulary:
    """Read a small vocabulary from a file with further metadata."""
    kinds = fields.pop("kinds", KINDS)
    tokens = fields.pop("tokens", TOKENS)
    named = {f"tokenizer.ggml.{name}": value for name, value in fields.items()}
    lists = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": array.array("i", kinds),
    }
    return read_vocabulary(Head(lists | named, (), 0))


ENDS: Final[dict[str, tuple[dict[str, Any], set[int]]]] = {
    "what the file calls the end of a text": ({"eos_token_id": 6}, {6}),
    "what SentencePiece calls so, where the file is silent": ({}, {2}),
    "what the file calls the end of a turn": ({"eot_token_id": 6}, {6}),
    "what the file calls the end of a message": ({"eom_token_id": 7}, {7}),
    "an id that is no token": ({"eos_token_id": 99, "eot_token_id": 2**31}, set()),
    "an id of -1, for none": ({"eot_token_id": -1}, set()),
}
ALWAYS: Final = {2, 3, 4}
"""`</s>`, a control token here, `<|im_end|>` and `<end_of_turn>`, for any type."""


@pytest.mark.parametrize("case", ENDS)
def test_answer_ends_with_the_end_of_a_turn(case: str) -> None:
    """Each token that ends a text, a turn or a message ends an answer."""
    fields, ends = ENDS[case]
    assert read(**fields).ends == ends | ALWAYS


@pytest.mark.parametrize(
    "name",
    [
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<EOT>",
        "[EOT]",
        "<|return|>",
        "<|call|>",
    ],
)
@pytest.mark.parametrize("kind", [NORMAL, CONTROL, DEFINED])
def test_end_of_turn_is_known_by_its_name(name: str, kind: int) -> None:
    """The end of a turn is known by its name, with any type."""
    vocabulary = read(tokens=[*TOKENS[:3], name.encode()], kinds=[*KINDS[:3], kind])
    assert 3 in vocabulary.ends
    assert vocabulary.control[name] == 3
    assert name not in vocabulary.defined


def test_markup_ends_nothing() -> None:
    """`</s>` does not end an answer if it is an ordinary token."""
    assert read(kinds=[UNKNOWN, CONTROL, NORMAL, *KINDS[3:]], eos_token_id=6).ends == {6, 3, 4}


def test_control_and_user_defined_tokens_are_told_apart() -> None:
    """Control tokens are for the template only; user-defined ones are for any text."""
    vocabulary = read()
    assert set(vocabulary.control) == {"<s>", "</s>", "<|im_end|>", "<end_of_turn>"}
    assert vocabulary.defined == {"<tool>": 5}


@pytest.mark.parametrize(
    ("fields", "adds", "bos"),
    [({}, True, 1), ({"add_bos_token": False}, False, 1), ({"bos_token_id": 6}, True, 6)],
)
def test_beginning_is_added_where_the_file_says_so(
    fields: dict[str, Any], adds: object, bos: int
) -> None:
    """The beginning token is added unless the file says otherwise, as in SentencePiece."""
    vocabulary = read(**fields)
    assert (vocabulary.adds_bos, vocabulary.bos) == (adds, bos)


def test_template_knows_tokens_by_name() -> None:
    """The template knows tokens by Hugging Face's names."""
    special = read(bos_token_id=1, eos_token_id=2, unknown_token_id=0, padding_token_id=6).special
    assert special == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "a",
    }


@pytest.mark.parametrize(
    ("templates", "chosen"),
    [
        ({}, ""),
        ({"": b"x"}, "x"),
        ({"": b"x", ".default": b"y", ".tool_use": b"z"}, "x"),
        ({".default": b"y", ".tool_use": b"z"}, "y"),
        ({".tool_use": b"z"}, ""),
    ],
)
def test_template_for_chats_without_tools_is_chosen(
    templates: dict[str, bytes], chosen: str
) -> None:
    """Of several templates, the one for chats without tools is used."""
    fields = {f"tokenizer.chat_template{name}": text for name, text in templates.items()}
    assert read_vocabulary(Head(dict(fields), (), 0)).template == chosen


def test_control_tokens_can_be_spelt() -> None:
    """The characters of control tokens are tokens themselves, or bytes."""
    tokens = [*TOKENS, b"<0x3E>"]
    assert read(tokens=tokens, kinds=[*KINDS, 6]).characters == {"<": 7, "<0x3E>": 8}
