"""Compiles JSON schemas and calls of tools to grammars, with llama-server's own compiler.

`/completion` compiles its field `json_schema`, whatever the model's template is, refuses a schema
with the place of its fault, and shows the grammar. An answer is then drawn with that grammar. A
build with llguidance shows none there, and neither follows every schema nor refuses one that it
does not understand. It compiles a schema for the chat endpoint, as part of what the model's
template writes. That endpoint also knows how a template's calls look.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from node.engine.llama_cpp.bounds import find_contradiction
from node.engine.llama_cpp.completion import Failure, Grammar, decode
from node.engine.llama_cpp.errors import RefusedError

_GRAMMAR: Final = "generation_settings/grammar"
_FAULT: Final = "JSON schema error at "
_FOREIGN: Final = "%llguidance"
"""How a grammar begins that a build with llguidance shows."""
_NOT_BEGUN: Final = "Failed to initialize samplers: std::exception"
"""The grammar does not fit what the template begins an answer with."""
_ROOT: Final = re.compile(r"(?m)^root ::=.*$")
"""The rule that also has what the template begins an answer with."""
_SCHEMA_RULE: Final = "response-format-schema"
_NO_COMPILER: Final = (
    "this llama-server cannot compile a schema for the chat template of this model: set "
    "--llama-server to a build without llguidance"
)


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


class _Compiled(msgspec.Struct, frozen=True):
    grammar: str = msgspec.field(default="", name=_GRAMMAR)


def check_schema(schema: dict[str, Any], place: str = "#") -> None:
    """Check what llama-server's compiler does not.

    Args:
        schema: The schema.
        place: Where it is, for the error.

    Raises:
        RefusedError: Two bounds in the schema contradict each other.
    """
    if fault := find_contradiction(schema, place):
        raise RefusedError(f"the schema cannot be followed: at {fault}")


def schema_body(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the body for `/completion` that compiles a schema and draws nothing."""
    return {
        "prompt": [0],
        "n_predict": 0,
        "json_schema": schema,
        "response_fields": [_GRAMMAR],
    }


def read_grammar(body: bytes) -> Grammar | None:
    """Return the grammar of the schema; None if the server has llguidance."""
    grammar = decode(body, _Compiled).grammar
    return None if grammar.startswith(_FOREIGN) else Grammar(grammar)


def chat_body(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the body for `/v1/chat/completions` that compiles a schema and draws one token."""
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return {
        "messages": [{"role": "user", "content": "x"}],
        "add_generation_prompt": False,
        "response_format": wanted,
        "max_tokens": 1,
        "verbose": True,
    }


def read_chat_grammar(body: bytes) -> Grammar:
    """Return the grammar of the schema alone.

    Raises:
        RefusedError: The server did not show one.
    """
    grammar = _settings(body).grammar
    if f"\n{_SCHEMA_RULE} ::=" not in f"\n{grammar}":
        raise RefusedError(_NO_COMPILER)
    return Grammar(_ROOT.sub(f"root ::= {_SCHEMA_RULE}", grammar))


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
            check_schema(function.get("parameters") or {}, f"{function['name']}: #")
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
    if failure.message.startswith(_NOT_BEGUN):
        return _NO_COMPILER
    return f"the schema cannot be followed: {'at ' + place if mark else failure.message}"


def _settings(body: bytes) -> _Settings:
    shown = decode(body, _Shown).verbose
    return _Settings() if shown is None else shown.generation_settings


def _loose(tool: dict[str, Any]) -> dict[str, Any]:
    """Return a tool with any arguments."""
    return tool | {"function": tool["function"] | _ANYTHING}
