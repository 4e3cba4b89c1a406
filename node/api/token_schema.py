"""The bodies of `/tokenize`, `/detokenize` and `/apply-template`, as in llama.cpp and vLLM."""

from typing import Annotated, Any

import msgspec

from node.api.chat_schema import ChatRequest, Message
from node.api.schema import Body, TokenId
from node.api.tools import FieldError, Tool


class TemplateRequest(Body, frozen=True, kw_only=True):
    """Body of `POST /apply-template`."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    tools: list[Tool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def chat(self) -> ChatRequest:
        """Return the chat."""
        return chat_of(self.messages, self.tools, self.chat_template_kwargs)


class TokenizeRequest(Body, frozen=True, kw_only=True):
    """Body of `POST /tokenize`: a text, or a chat as `/v1/chat/completions` takes it.

    Raises:
        FieldError: It has neither or both.
    """

    prompt: str | None = None
    content: str | None = None
    """llama.cpp's name for `prompt`."""
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)] | None = None
    tools: list[Tool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        given = [one for one in (self.prompt, self.content, self.messages) if one is not None]
        if len(given) != 1:
            raise FieldError("prompt", "is required, or `messages` in its place")

    def chat(self) -> ChatRequest | None:
        """Return the chat; None for a text."""
        if self.messages is None:
            return None
        return chat_of(self.messages, self.tools, self.chat_template_kwargs)

    @property
    def text(self) -> str:
        """The text, if it is not a chat."""
        return (self.content if self.prompt is None else self.prompt) or ""


class DetokenizeRequest(Body, frozen=True, kw_only=True):
    """Body of `POST /detokenize`."""

    tokens: Annotated[list[TokenId], msgspec.Meta(min_length=1)]


class Tokens(msgspec.Struct, frozen=True):
    """A prompt's tokens, with the one that begins a text if the model wants it."""

    tokens: tuple[int, ...]
    count: int


class Text(msgspec.Struct, frozen=True):
    """The text of tokens or of a chat: under vLLM's name, and llama.cpp's for tokens."""

    prompt: str
    content: str


def chat_of(
    messages: list[Message], tools: list[Tool] | None, options: dict[str, Any] | None
) -> ChatRequest:
    """Return a checked chat.

    Raises:
        InvalidRequestError: The fields contradict each other.
    """
    chat = ChatRequest(messages=messages, tools=tools, chat_template_kwargs=options)
    chat.check()
    return chat
