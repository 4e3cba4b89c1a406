"""Tools in OpenAI's form, which chat templates know as well: functions, calls, and the choice."""

from typing import Annotated, Any, Literal

import msgspec

_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that the model may call."""

    name: _Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
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


class FunctionCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call of a function, with its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call in an earlier answer."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None
    """Its place in a streamed answer, which some clients send back."""
