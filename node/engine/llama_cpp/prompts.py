"""Turns prompts into a model's tokens, with llama-server's template and tokenizer."""

from collections.abc import Iterator
from typing import Any, Final, TypeVar

import msgspec

from node.engine.chat import opens_thoughts
from node.engine.llama_cpp.completion import FREE, KEPT_TOKENS, Grammar
from node.engine.llama_cpp.completion_stream import Character, spell
from node.engine.llama_cpp.connection import call
from node.engine.llama_cpp.errors import RefusedError
from node.engine.llama_cpp.grammar import (
    explain,
    read_tools_grammar,
    schema_grammar,
    tools_body,
)
from node.engine.llama_cpp.replies import Piece, decode, read_failure
from node.engine.marks import BREAK, without_marks
from node.engine.protocol import Generate, Result
from node.engine.turns import with_json_arguments
from node.requests.request import Chat, Prompt

T = TypeVar("T")


class _Tokens(msgspec.Struct, frozen=True):
    tokens: list[int]


class _Pieces(msgspec.Struct, frozen=True):
    tokens: list[Piece]


class _Rendered(msgspec.Struct, frozen=True):
    prompt: str


class _Content(msgspec.Struct, frozen=True):
    content: str


_SEPARATOR: Final = "\n"


class Prompts:
    """The prompts of one llama-server.

    Args:
        socket: The path of its socket.
    """

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._kept: tuple[str, ...] | None = None

    async def kept_tokens(self) -> tuple[str, ...]:
        """Return those of `KEPT_TOKENS` that are tokens of the model; the first call asks for them.

        Raises:
            EngineLostError: The server does not answer.
        """
        if self._kept is None:
            pieces = await self._pieces(_SEPARATOR.join(KEPT_TOKENS), parse_special=True)
            found = {piece.octets.decode(errors="replace") for piece in pieces}
            self._kept = tuple(text for text in KEPT_TOKENS if text in found)
        return self._kept

    async def tokenize(self, prompt: Prompt) -> list[int]:
        """Return the tokens of a prompt; raises like `read`."""
        tokens, _ = await self.read(prompt)
        return tokens

    async def read(self, prompt: Prompt) -> tuple[list[int], bool]:
        """Return the tokens of a prompt, with those that the model wants at its ends.

        The second value is whether its end opens the model's thoughts.

        Raises:
            RefusedError: The model's template refuses the chat, or the prompt is empty.
            EngineLostError: The server does not answer.
        """
        thinks = False
        if isinstance(prompt, str):
            tokens = await self._encode(prompt, add_special=True, parse_special=False)
        elif isinstance(prompt, Chat):
            text = await self._render(prompt)
            tokens, thinks = await self._tokenize_text(text), opens_thoughts(text)
        else:
            tokens = list(prompt)
        if not tokens:
            raise RefusedError("the prompt is empty: this model needs a text to continue")
        return tokens, thinks

    async def named(self, results: list[Result | Character]) -> list[Result]:
        """Return the results with the tokens of each character that several tokens made up.

        Raises:
            EngineLostError: The server does not answer.
        """
        named: list[Result] = []
        for result in results:
            if isinstance(result, Character):
                pieces = await self._pieces(result.text, parse_special=False)
                named += spell(result, pieces)
            else:
                named.append(result)
        return named

    async def show(self, prompt: Prompt) -> tuple[list[int], str]:
        """Return the tokens of a prompt and its text; raises like `tokenize`."""
        tokens = await self.tokenize(prompt)
        if isinstance(prompt, str):
            return tokens, prompt
        if isinstance(prompt, Chat):
            return tokens, without_marks(await self._render(prompt))
        return tokens, (await self._ask("/detokenize", {"tokens": tokens}, _Content)).content

    async def grammar(self, command: Generate) -> Grammar:
        """Return what a request's answer must follow.

        Raises:
            RefusedError: A schema cannot be compiled; the text names the place in it.
            EngineLostError: The server does not answer.
        """
        if command.schema is not None:
            return schema_grammar(command.schema)
        if command.strict and isinstance(command.prompt, Chat):
            body = tools_body(command.prompt.tools, command.strict)
            return read_tools_grammar(await self._compile("/v1/chat/completions", body))
        return FREE

    async def _compile(self, target: str, body: dict[str, Any]) -> bytes:
        status, answer = await call(self._socket, target, body)
        if status != 200:
            raise RefusedError(" ".join(explain(read_failure(answer)).split()))
        return answer

    async def _render(self, chat: Chat) -> str:
        """Return a chat's text, with marks in what looks like a control token but is none."""
        said = {"messages": list(chat.turns), "tools": list(chat.tools), "more": chat.options}
        marked = await self._hide_control_tokens(said)
        body = {"messages": list(map(with_json_arguments, marked["messages"]))}
        if chat.tools:
            body["tools"] = marked["tools"]
        if chat.options:
            body["chat_template_kwargs"] = marked["more"]
        return (await self._ask("/apply-template", body, _Rendered)).prompt

    async def _tokenize_text(self, text: str) -> list[int]:
        """Return the tokens of a template's text; control tokens come only from the template."""
        tokens: list[int] = []
        for number, part in enumerate(text.split(BREAK)):
            tokens += await self._encode(part, add_special=number == 0, parse_special=True)
        return tokens

    async def _hide_control_tokens(self, said: dict[str, Any]) -> dict[str, Any]:
        """Return what a template is given, with a mark inside each control token that it names."""
        texts = {text: without_marks(text) for text in _texts(said)}
        joined = _SEPARATOR.join(texts.values())
        plain = await self._encode(joined, parse_special=False)
        if plain != await self._encode(joined, parse_special=True):
            texts = {text: await self._break_control_tokens(clean) for text, clean in texts.items()}
        hidden: dict[str, Any] = _replaced(said, texts)
        return hidden

    async def _break_control_tokens(self, text: str) -> str:
        """Return a text with a mark in every token that only the control tokens explain."""
        plain = set(await self._encode(text, parse_special=False))
        marked = ""
        rest = text
        for piece in await self._pieces(text, parse_special=True):
            name = piece.octets.decode(errors="ignore")
            if piece.id in plain or not name:
                continue
            before, found, after = rest.partition(name)
            if found:
                marked += before + name[0] + BREAK + name[1:]
                rest = after
        return marked + rest

    async def _encode(
        self, text: str, *, add_special: bool = False, parse_special: bool
    ) -> list[int]:
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        return (await self._ask("/tokenize", body, _Tokens)).tokens

    async def _pieces(self, text: str, *, parse_special: bool) -> list[Piece]:
        body = {"content": text, "parse_special": parse_special, "with_pieces": True}
        return (await self._ask("/tokenize", body, _Pieces)).tokens

    async def _ask(self, target: str, body: dict[str, Any], kind: type[T]) -> T:
        status, answer = await call(self._socket, target, body)
        if status != 200:
            message = " ".join(read_failure(answer).message.split())
            raise RefusedError(f"the engine refuses the prompt: {message}")
        return decode(answer, kind)


def _texts(value: object) -> Iterator[str]:
    """Yield the texts in a JSON value, except the roles of turns."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name != "role" or not isinstance(item, str):
                yield from _texts(item)


def _replaced(value: Any, texts: dict[str, str]) -> Any:
    """Return a JSON value with other texts."""
    match value:
        case str():
            return texts.get(value, value)
        case list():
            return [_replaced(item, texts) for item in value]
        case dict():
            return {
                name: item if name == "role" and isinstance(item, str) else _replaced(item, texts)
                for name, item in value.items()
            }
    return value
