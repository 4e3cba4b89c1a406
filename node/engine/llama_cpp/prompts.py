"""Turns prompts into a model's tokens, with llama-server's template and tokenizer."""

from typing import Any, Final, TypeVar

import msgspec

from node.engine.llama_cpp.completion import Character, Piece, decode, read_failure, spell
from node.engine.llama_cpp.connection import call
from node.engine.llama_cpp.errors import RefusedError
from node.engine.marks import BREAK, without_marks
from node.engine.protocol import Result
from node.requests.request import Chat, Prompt, Turn

T = TypeVar("T")


class _Tokens(msgspec.Struct, frozen=True):
    tokens: list[int]


class _Pieces(msgspec.Struct, frozen=True):
    tokens: list[Piece]


class _Rendered(msgspec.Struct, frozen=True):
    prompt: str


_SEPARATOR: Final = "\n"


class Prompts:
    """The prompts of one llama-server.

    Args:
        socket: The path of its socket.
    """

    def __init__(self, socket: str) -> None:
        self._socket = socket

    async def tokenize(self, prompt: Prompt) -> list[int]:
        """Return the tokens of a prompt, with those that the model wants at its ends.

        Raises:
            RefusedError: The model's template refuses the chat, or the prompt is empty.
            EngineLostError: The server does not answer.
        """
        if isinstance(prompt, str):
            tokens = await self._encode(prompt, add_special=True, parse_special=False)
        elif isinstance(prompt, Chat):
            tokens = await self._tokenize_chat(prompt.turns)
        else:
            tokens = list(prompt)
        if not tokens:
            raise RefusedError("the prompt is empty: this model needs a text to continue")
        return tokens

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

    async def _tokenize_chat(self, turns: tuple[Turn, ...]) -> list[int]:
        """Return the tokens of a chat; control tokens come only from the template."""
        rendered = await self._ask(
            "/apply-template", {"messages": await self._hide_control_tokens(turns)}, _Rendered
        )
        tokens: list[int] = []
        for number, part in enumerate(rendered.prompt.split(BREAK)):
            tokens += await self._encode(part, add_special=number == 0, parse_special=True)
        return tokens

    async def _hide_control_tokens(self, turns: tuple[Turn, ...]) -> list[Turn]:
        """Return the turns with a mark inside each text that names a control token."""
        clean = [{key: without_marks(text) for key, text in turn.items()} for turn in turns]
        said = _SEPARATOR.join(text for turn in clean for text in turn.values())
        plain = await self._encode(said, parse_special=False)
        if plain == await self._encode(said, parse_special=True):
            return clean
        return [
            {
                key: text if key == "role" else await self._break_control_tokens(text)
                for key, text in turn.items()
            }
            for turn in clean
        ]

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
