"""The body of `POST /v1/messages` and its parts, as in Anthropic's API reference."""

from typing import Annotated, Any, Literal

import msgspec

from node.api.schema import MAX_STOPS, Body, Count, Stop
from node.api.tools import MAX_TOOLS, FieldError, FunctionName, Schema

_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_Temperature = Annotated[float, msgspec.Meta(ge=0, le=100)]
Hint = dict[str, Any]
"""A `cache_control`, which does not affect the answer."""


class _Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a message's content."""

    cache_control: Hint | None = None


class TextBlock(_Block, frozen=True, kw_only=True, tag_field="type", tag="text"):
    """A text."""

    text: str


class ThinkingBlock(_Block, frozen=True, kw_only=True, tag_field="type", tag="thinking"):
    """What the assistant thought before an earlier answer."""

    thinking: str
    signature: str | None = None


class ToolUseBlock(_Block, frozen=True, kw_only=True, tag_field="type", tag="tool_use"):
    """A call in an earlier answer."""

    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(_Block, frozen=True, kw_only=True, tag_field="type", tag="tool_result"):
    """The result of a call."""

    tool_use_id: str
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None
    """The model reads in the content what went wrong."""

    @property
    def text(self) -> str:
        """The content as one text."""
        return joined(self.content or "")


Block = TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock


class InputMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message of the chat.

    Raises:
        FieldError: It has blocks of the other role.
    """

    role: Literal["user", "assistant"]
    content: str | list[Block]

    def __post_init__(self) -> None:
        foreign = ToolUseBlock if self.role == "user" else ToolResultBlock
        if any(isinstance(block, foreign) for block in self.content):
            kind = foreign.__struct_config__.tag
            raise FieldError("content", f"has a {kind}, which is not for the role {self.role}")


class ToolParameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A function that the model may call."""

    name: FunctionName
    input_schema: Schema
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    """Whether a call that the model chooses must match the schema."""
    cache_control: Hint | None = None


class ToolChoiceParameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether the model may or must call functions, or which one.

    Raises:
        FieldError: The function's name is missing.
    """

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    def __post_init__(self) -> None:
        if self.type == "tool" and self.name is None:
            raise FieldError("name", "is required for the type tool")


class Thinking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether the model should think first, if its template lets the caller choose."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Count | None = None
    """No limit of this API; `max_tokens` limits thoughts and answer together."""


class CountTokensRequest(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/messages/count_tokens`: what makes the prompt of a message."""

    messages: Annotated[list[InputMessage], msgspec.Meta(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[ToolParameter], msgspec.Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoiceParameter | None = None
    thinking: Thinking | None = None
    cache_control: Hint | None = None


class MessagesRequest(CountTokensRequest, frozen=True, kw_only=True):
    """Body of `POST /v1/messages`."""

    max_tokens: Count
    temperature: _Temperature | None = None
    top_p: _Share | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None = None
    stop_sequences: Annotated[list[Stop], msgspec.Meta(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None


def joined(content: str | list[TextBlock]) -> str:
    """Return a content as one text, its blocks on lines of their own."""
    return content if isinstance(content, str) else "\n".join(block.text for block in content)
