"""Compiles JSON schemas to grammars, with llama-server's own compiler.

`/completion` takes a grammar. Its field `json_schema` is not used: a build with llguidance neither
follows every schema nor refuses one that it does not understand. The chat endpoint compiles a
schema with its place in an error, and shows the grammar if asked to be verbose.
"""

import re
from typing import Any, Final

import msgspec

from node.engine.llama_cpp.completion import Failure
from node.engine.llama_cpp.errors import RefusedError

_ROOT: Final = re.compile(r"(?m)^root ::=.*$")
"""The rule that also has what the template begins an answer with."""
_SCHEMA_RULE: Final = "response-format-schema"
_FAULT: Final = "JSON schema error at "


class _Settings(msgspec.Struct, frozen=True):
    grammar: str = ""


class _Verbose(msgspec.Struct, frozen=True):
    generation_settings: _Settings


class _Compiled(msgspec.Struct, frozen=True):
    verbose: _Verbose | None = msgspec.field(default=None, name="__verbose")


def compile_body(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the body for `/v1/chat/completions` that compiles a schema and draws one token."""
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return {
        "messages": [{"role": "user", "content": "x"}],
        "add_generation_prompt": False,
        "response_format": wanted,
        "max_tokens": 1,
        "verbose": True,
    }


def read_grammar(body: bytes) -> str:
    """Return the grammar of the schema alone.

    Raises:
        RefusedError: The server did not show one.
    """
    compiled = msgspec.json.decode(body, type=_Compiled)
    grammar = compiled.verbose.generation_settings.grammar if compiled.verbose else ""
    if f"\n{_SCHEMA_RULE} ::=" not in f"\n{grammar}":
        raise RefusedError("this llama-server does not compile schemas for this model's template")
    return _ROOT.sub(f"root ::= {_SCHEMA_RULE}", grammar)


def explain(failure: Failure) -> str:
    """Return why a schema cannot be compiled, with the place in it."""
    _, mark, place = failure.message.partition(_FAULT)
    return f"the schema cannot be followed: {'at ' + place if mark else failure.message}"
