"""Tools in OpenAI's form, which chat templates know as well: functions, calls, and the choice."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from node.errors import InvalidRequestError

MAX_TOOLS: Final = 512
"""A guess; OpenAI accepts 128."""
Schema = dict[str, Any]
"""A JSON schema."""
FunctionName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]


class FieldError(ValueError):
    """A field of a struct is wrong because of another one."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"`{field}` {problem}")
        self.field = field
        self.problem = problem


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: Schema | None = None
    """A JSON schema of its arguments."""
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool, which can only be a function."""

    type: Literal["function"]
    function: Function


class ChosenFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The function that must be called."""

    name: str


class ToolChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tool that must be used."""

    type: Literal["function"]
    function: ChosenFunction


class JsonSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A named schema."""

    schema: Schema
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    """The engine follows every schema strictly."""


class ResponseFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the answer must be.

    Raises:
        FieldError: The schema is missing.
    """

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def __post_init__(self) -> None:
        if self.type == "json_schema" and self.json_schema is None:
            raise FieldError("json_schema", "is required for the type json_schema")

    def answer_schema(self) -> Schema | None:
        """Return the schema that the answer must match; None for text."""
        if self.type == "text":
            return None
        return {"type": "object"} if self.json_schema is None else self.json_schema.schema


class FunctionCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call of a function, with its arguments as JSON text."""

    name: str
    arguments: str
    parsed_arguments: Any = None
    """What OpenAI's client read from `arguments`."""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call in an earlier answer."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None
    """Its place in a streamed answer, which some clients send back."""


Choice = Literal["none", "auto", "required"] | ToolChoice | None
"""Whether the model may or must call functions, or which one; None for the default."""


def check_choice(choice: Choice, names: Sequence[str]) -> None:
    """Check that a choice fits the functions.

    Raises:
        InvalidRequestError: It names a function that there is not, or requires one of none.
    """
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequestError(f"two tools are named {twice!r}: rename one", parameter="tools")
    if isinstance(choice, ToolChoice) and choice.function.name not in names:
        message = f"`tool_choice` names {choice.function.name!r}, which is not one of the tools"
        raise InvalidRequestError(message, parameter="tool_choice")
    if choice == "required" and not names:
        message = "`tool_choice` requires a tool, but `tools` is empty: send tools"
        raise InvalidRequestError(message, parameter="tool_choice")
