"""What an answer must follow: the grammar of a schema, or of calls in the template's own format.

A schema is compiled here, because a llama-server with llguidance, as in the wheel, neither follows
every schema nor refuses one that it does not understand, and compiles others only for its chat
endpoint, as part of what some templates write. How a template's calls look, only llama-server
knows. It shows their grammar at that endpoint.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from node.engine.llama_cpp.bounds import find_contradiction
from node.engine.llama_cpp.completion import Grammar
from node.engine.llama_cpp.errors import RefusedError
from node.engine.llama_cpp.gbnf.schema import compile_schema
from node.engine.llama_cpp.replies import Failure, decode

_FAULT: Final = "JSON schema error at "
_NO_FORMAT: Final = (
    "`strict` cannot be kept with the tool choice `auto`: the format of calls in this model's chat "
    "template is not known; leave `strict` out, or set `tool_choice` to required"
)
_ANYTHING: Final = {"parameters": {"type": "object"}}


class _Settings(msgspec.Struct, frozen=True):
    grammar: str = ""
    grammar_lazy: bool = False
    grammar_triggers: list[dict[str, Any]] = []


class _Verbose(msgspec.Struct, frozen=True):
    generation_settings: _Settings


class _Shown(msgspec.Struct, frozen=True):
    verbose: _Verbose | None = msgspec.field(default=None, name="__verbose")


def schema_grammar(schema: dict[str, Any]) -> Grammar:
    """Return the grammar of a schema.

    Raises:
        RefusedError: No grammar can say it; the text names the place.
    """
    try:
        _check_bounds(schema)
        return Grammar(compile_schema(schema))
    except RecursionError:  # in a part that is not followed, which may have any depth
        raise RefusedError("the schema cannot be followed: it is nested too deeply") from None


def _check_bounds(schema: dict[str, Any], place: str = "#") -> None:
    """Check what neither compiler does.

    Args:
        schema: The schema.
        place: Where it is, for the error.

    Raises:
        RefusedError: Two bounds in the schema contradict each other.
    """
    if fault := find_contradiction(schema, place):
        raise RefusedError(f"the schema cannot be followed: at {fault}")


def tools_body(tools: Sequence[dict[str, Any]], strict: Sequence[str]) -> dict[str, Any]:
    """Return the body for `/v1/chat/completions` that shows the grammar of a template's calls.

    Args:
        tools: The functions that may be called.
        strict: Those whose arguments must match their schemas; others may have any.

    Raises:
        RefusedError: Two bounds in one of their schemas contradict each other.
    """
    for function in (tool["function"] for tool in tools):
        if function["name"] in strict:
            _check_bounds(function.get("parameters") or {}, f"{function['name']}: #")
    shown = [tool if tool["function"]["name"] in strict else _loose(tool) for tool in tools]
    return {
        "messages": [{"role": "user", "content": "x"}],
        "tools": shown,
        "max_tokens": 1,
        "verbose": True,
    }


def read_tools_grammar(body: bytes) -> Grammar:
    """Return the grammar of calls, which applies where one begins.

    Raises:
        RefusedError: The server knows no format of calls for the model's template.
    """
    settings = _settings(body)
    if not (settings.grammar and settings.grammar_lazy):
        raise RefusedError(_NO_FORMAT)
    return Grammar(settings.grammar, is_lazy=True, triggers=tuple(settings.grammar_triggers))


def explain(failure: Failure) -> str:
    """Return why a schema cannot be compiled, with the place in it."""
    _, mark, place = failure.message.partition(_FAULT)
    return f"the schema cannot be followed: {'at ' + place if mark else failure.message}"


def _settings(body: bytes) -> _Settings:
    shown = decode(body, _Shown).verbose
    return _Settings() if shown is None else shown.generation_settings


def _loose(tool: dict[str, Any]) -> dict[str, Any]:
    """Return a tool with any arguments."""
    return tool | {"function": tool["function"] | _ANYTHING}
