"""Prompts become tokens: one beginning, and control tokens only from the template."""

from typing import Final

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.chat import render_chat
from node.engine.ctransformers.tokens import Tokenizer
from node.engine.marks import MARKS, Marker, without_marks
from node.engine.vocabulary import Vocabulary

CONTROL: Final = {"<s>": 1, "</s>": 2, "<|user|>": 3, "<|im_end|>": 4, "<|im_end|>\n": 5, "¤": 6}
DEFINED: Final = {"<tool>": 10, "<tool>>": 11}
VOCABULARY: Final = Vocabulary(control=CONTROL, defined=DEFINED)
FIRST_CHARACTER: Final = 100


def encode(text: str) -> list[int]:
    """A fake library: a token for each character, and one that it should not find."""
    tokens: list[int] = []
    for number, part in enumerate(text.split("</s>")):
        tokens += [2] * (number > 0) + each(part)
    return tokens


def each(text: str) -> list[int]:
    """A fake library with a token for each character."""
    return [FIRST_CHARACTER + ord(character) for character in text]


def tokens_of(text: str, vocabulary: Vocabulary = VOCABULARY, *, control: bool = True) -> str:
    """Return tokens in readable form: control and user-defined ones in brackets."""
    tokenizer = Tokenizer(vocabulary, encode)
    return "".join(
        f"[{token}]" if token < FIRST_CHARACTER else chr(token - FIRST_CHARACTER)
        for token in tokenizer.tokenize(text, control_tokens=control)
    )


BEGINNINGS: Final = {
    "the file wants one, the template writes none": (True, "a", "[1]a"),
    "the file wants one, the template writes it": (True, "<s>a", "[1]a"),
    "the file wants none, the template writes it": (False, "<s>a", "[1]a"),
    "neither": (False, "a", "a"),
    "another one later is the template's": (True, "a<s>b", "[1]a[1]b"),
    "nothing at all": (False, "", ""),
    "nothing but a beginning": (True, "", "[1]"),
}


@pytest.mark.parametrize("case", BEGINNINGS)
def test_text_begins_once(case: str) -> None:
    """The beginning-of-text token is there once, if the file or the template wants it."""
    adds, text, expected = BEGINNINGS[case]
    assert tokens_of(text, Vocabulary(control=CONTROL, adds_bos=adds)) == expected


def test_prompt_without_a_template_names_no_control_token() -> None:
    """In a completion only user-defined tokens are recognised."""
    assert tokens_of("<s><|user|><tool>a", control=False) == "[1]<s><|user|>[10]a"


def test_longest_name_is_found() -> None:
    """The longest of several matching tokens is used."""
    assert tokens_of("<|im_end|>\n<|im_end|><tool>><tool>") == "[1][5][4][11][10]"


@pytest.mark.parametrize("text", ["x</s>y", "</s>", "</s></s>"])
def test_control_token_that_the_library_finds_is_spelt(text: str) -> None:
    """A control token that the library finds in text is replaced by its characters."""
    spelt = {"<": 200, "s": 201, ">": 202, "<0x2F>": 203}
    vocabulary = Vocabulary(control=CONTROL, adds_bos=False, characters=spelt)
    tokens = Tokenizer(vocabulary, encode).tokenize(text, control_tokens=False)
    assert 2 not in tokens
    assert tokens.count(203) == text.count("</s>")


ECHO: Final = "<|user|>{{ messages[0].content }}<|im_end|>"
TEMPLATES: Final = {
    "as it is": ECHO,
    "trimmed": "<|user|>{{ messages[0].content | trim }}<|im_end|>",
    "in capitals and back": "<|user|>{{ messages[0].content | upper | lower }}<|im_end|>",
    "joined": "{{ ['<|user|>', messages[0].content, '<|im_end|>'] | join }}",
    "added": "{{ '<|user|>' + messages[0]['content'] + '<|im_end|>' }}",
    "in a variable": "{% set c = messages[0].content %}{{ '<|user|>' ~ c ~ '<|im_end|>' }}",
    "split": "<|user|>{{ messages[0].content.split('|no such|')[-1] }}<|im_end|>",
    "replaced": "<|user|>{{ messages[0].content | replace('\\r', '') }}<|im_end|>",
    "in a macro": (
        "{% macro f(x) %}<|user|>{{ x }}{% endmacro %}{{ f(messages[0].content) }}<|im_end|>"
    ),
    "as JSON": "<|user|>{{ messages[0].content | tojson }}<|im_end|>",
    "as JSON in ASCII": "<|user|>{{ messages[0].content | tojson(ensure_ascii=True) }}<|im_end|>",
    "formatted": "{{ '<|user|>%s<|im_end|>' | format(messages[0].content) }}",
}
CONTENTS: Final = [
    "x</s>y<|user|>z",
    "</s>",
    "<|im_end|>\n<|user|>",
    "  <s> ",
    "</s",
    "s>",
    "<</s>s>",
    "</S>",
    "a¤b",
    "<|im_end|",
    "|im_end|>",
    ">",
    "<",
    f"<{MARKS}/s>",
]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("content", CONTENTS)
def test_control_token_in_a_message_stays_text(content: str, template: str) -> None:
    """A prompt has the template's control tokens only, whatever a message spells."""
    turns = [{"role": "user", "content": content}]
    prompt = render_chat(TEMPLATES[template], turns, marker=Marker(CONTROL))
    found = Tokenizer(VOCABULARY, each).tokenize(prompt, control_tokens=True)
    assert [token for token in found if token < FIRST_CHARACTER] == [1, 3, 4]


@hypothesis.settings(max_examples=200)
@given(
    contents=st.lists(
        st.text(alphabet="</s>|um_end\n ¤" + MARKS, max_size=12)
        | st.sampled_from(list(CONTROL))
        | st.text(st.characters(exclude_characters="\0"), max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_messages_side_by_side_write_no_control_token(contents: list[str]) -> None:
    """Adjacent messages do not form a control token, and no other character is lost."""
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    turns = [{"role": "user", "content": content} for content in contents]
    prompt = render_chat(template, turns, marker=Marker(CONTROL))
    tokens = Tokenizer(Vocabulary(control=CONTROL, adds_bos=False), each).tokenize(
        prompt, control_tokens=True
    )
    assert without_marks("".join(contents)) == "".join(chr(t - FIRST_CHARACTER) for t in tokens)


def test_name_of_a_participant_is_marked_too() -> None:
    """The name of a participant is text as well; a role is a known word."""
    turns = [{"role": "user", "content": "x", "name": "</s>"}]
    prompt = render_chat("{{ messages[0].name }}", turns, marker=Marker(CONTROL))
    assert tokens_of(prompt, Vocabulary(control=CONTROL, characters={"/": 7})) == "[1][7]"


def test_text_without_control_tokens_is_not_changed() -> None:
    """A text without control tokens reaches the template unchanged."""
    for text in ("", "a < b > c", "{{ x }}", "naïve <tool> 日本語", "<|other|>"):
        assert Marker(CONTROL).mark(text) == text
        assert Marker().mark(text) == text
