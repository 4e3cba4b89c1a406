"""The body of `POST /v1/responses` and its parts, as in OpenAI's API reference."""

from typing import Annotated, Any, Final, Literal

import msgspec

from node.api.chat_schema import Effort
from node.api.schema import Body, Count, Likeliest
from node.api.tools import MAX_TOOLS, FieldError, FunctionName, Schema

_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_Temperature = Annotated[float, msgspec.Meta(ge=0, le=100)]
_REQUIRED: Final = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": (),
}


class ContentPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text in an item."""

    type: Literal["input_text", "output_text", "text", "summary_text", "reasoning_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    parsed: Any = None
    """What OpenAI's client read from a structured answer; `text` has the same."""


class InputItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A message, a call, its result, or thoughts. An item of an answer can be sent back unchanged.

    Raises:
        FieldError: A field that its type requires is missing.
    """

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[ContentPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    parsed_arguments: Any = None
    """What OpenAI's client read from `arguments`."""
    output: str | list[ContentPart] | None = None
    summary: list[ContentPart] | None = None
    id: str | None = None
    status: str | None = None

    def __post_init__(self) -> None:
        for field in _REQUIRED[self.type]:
            if getattr(self, field) is None:
                raise FieldError(field, f"is required for the type {self.type}")


class FunctionTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A function that the model may call."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class FunctionChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The function that must be called."""

    type: Literal["function"]
    name: str


class TextFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the answer's text must be.

    Raises:
        FieldError: The schema is missing.
    """

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: Schema | None = None
    description: str | None = None
    strict: bool | None = None

    def __post_init__(self) -> None:
        if self.type == "json_schema" and self.schema is None:
            raise FieldError("schema", "is required for the type json_schema")


class TextOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the answer's text."""

    format: TextFormat | None = None


class Reasoning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much the model should think, if its template lets the caller choose."""

    effort: Effort | None = None


class ResponsesRequest(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/responses`."""

    input: str | Annotated[list[InputItem], msgspec.Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    temperature: _Temperature | None = None
    top_p: _Share | None = None
    tools: Annotated[list[FunctionTool], msgspec.Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = (
        None
    )
    """The second has no effect: thoughts are sent as they are."""
    top_logprobs: Likeliest | None = None
    """With `include`: report this many of the likeliest tokens at each position."""
    stream: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
