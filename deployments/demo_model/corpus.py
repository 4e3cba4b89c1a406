"""Builds the training corpus: encoded stories and conversations packed into rows."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from deployments.demo_model.chat import Message, render, write_conversation
from deployments.demo_model.stories import any_hero, write_story
from deployments.demo_model.tokenizer import ASSISTANT, BEGIN, END, Tokenizer

CONVERSATION_SHARE = 0.7
LONG_SHARE = 0.2
LONG_TURNS = 8
IGNORED = -100
# A reply starts after the space and the newline that follow the assistant's control token.
REPLY_HEADER_TOKENS = 2
OPEN_ROWS = 32


@dataclass
class Row:
    """Several documents in one row of training; the lists are equally long."""

    tokens: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)

    def add(self, document: list[int], learned: list[bool]) -> None:
        """Append a document, the target of each token being the next one where it is learned."""
        number = self.documents[-1] + 1 if self.documents else 0
        self.tokens += document[:-1]
        self.targets += [
            token if counts else IGNORED
            for token, counts in zip(document[1:], learned[1:], strict=True)
        ]
        self.documents += [number] * (len(document) - 1)

    def pad(self, length: int) -> None:
        """Fill the row up to the length with tokens that nothing is learned from."""
        missing = length - len(self.tokens)
        self.tokens += [END] * missing
        self.targets += [IGNORED] * missing
        self.documents += [-1] * missing


def write_texts(random: Random, count: int) -> Iterator[str]:
    """Texts as the tokenizer's training wants them, without control tokens."""
    for _ in range(count):
        if random.random() >= CONVERSATION_SHARE:
            yield write_story(random, any_hero(random)).text
        else:
            yield from ("\n" + message["content"] for message in _conversation(random))


def pack_rows(random: Random, tokenizer: Tokenizer, count: int, length: int) -> list[Row]:
    """The given number of full rows of the length, each document whole and in one row."""
    full: list[Row] = []
    open_rows: list[Row] = []
    while len(full) < count:
        document, learned = _document(random, tokenizer, length + 1)
        row = next((r for r in open_rows if len(r.tokens) + len(document) - 1 <= length), None)
        if row is None:
            row = Row()
            open_rows.append(row)
        row.add(document, learned)
        if len(open_rows) > OPEN_ROWS:
            fullest = max(open_rows, key=lambda candidate: len(candidate.tokens))
            open_rows.remove(fullest)
            fullest.pad(length)
            full.append(fullest)
    return full


def encode_story(tokenizer: Tokenizer, text: str) -> list[int]:
    """A finished story as the engine would see it."""
    return [BEGIN, *tokenizer.encode(text), END]


def encode_chat(
    tokenizer: Tokenizer, messages: list[Message], *, add_generation_prompt: bool = False
) -> list[int]:
    """A conversation as the engine would see it."""
    text = render(messages, add_generation_prompt=add_generation_prompt)
    return [BEGIN, *tokenizer.encode_with_controls(text)]


def _document(random: Random, tokenizer: Tokenizer, limit: int) -> tuple[list[int], list[bool]]:
    """Tokens, and for each whether it is learned: stories whole, of conversations the replies."""
    if random.random() < CONVERSATION_SHARE:
        tokens = encode_chat(tokenizer, _conversation(random))
        learned = _in_reply(tokens)
    else:
        tokens = encode_story(tokenizer, write_story(random, any_hero(random)).text)
        learned = [True] * len(tokens)
    return tokens[:limit], learned[:limit]


def _conversation(random: Random) -> list[Message]:
    turns = LONG_TURNS if random.random() < LONG_SHARE else random.choice((1, 1, 2, 3))
    return write_conversation(random, turns)


def _in_reply(tokens: list[int]) -> list[bool]:
    """For each token whether the assistant says it, the end token included."""
    learned: list[bool] = []
    remaining_header = -1
    for token in tokens:
        learned.append(remaining_header == 0)
        if token == ASSISTANT:
            remaining_header = REPLY_HEADER_TOKENS
        elif token == END:
            remaining_header = -1
        elif remaining_header > 0:
            remaining_header -= 1
    return learned
