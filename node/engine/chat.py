"""Renders a chat as the prompt that its model was trained on, with the model file's own template.

The template is a Jinja program from the model file. It runs in Jinja's immutable sandbox and in the
engine child, so a template that does not end is handled like any hang. It has the same names,
filters, statements and whitespace rules as in `apply_chat_template` of Hugging Face's transformers
(its `chat_template_utils`).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from node.engine.marks import END, MARKS, NO_MARKER, Marker
from node.requests.request import Turn

_THOUGHTS: Final = ("<think>", "[THINK]")
_NONE: Final[Mapping[str, str]] = {}


class ChatRefusedError(Exception):
    """The model's template does not accept these messages; the text says why."""


class NoTemplateError(ChatRefusedError):
    """The model has no template, so its chat format is unknown."""


def opens_thoughts(text: str) -> bool:
    """Return whether a prompt that a template wrote ends with the mark that opens thoughts."""
    return text.rstrip().endswith(_THOUGHTS)


def render_chat(
    template: str,
    turns: Sequence[Turn],
    bos: str = "",
    eos: str = "",
    *,
    special: Mapping[str, str] = _NONE,
    marker: Marker = NO_MARKER,
) -> str:
    """Return the prompt text for a chat, open for the assistant's next words.

    If the last turn is the assistant's, the text is open at the end of that turn. Otherwise the
    template begins a new assistant turn.

    Args:
        template: The model's template, which also decides whether `bos` begins the text.
        turns: The chat's turns.
        bos: The token that begins a text.
        eos: The token that ends a text.
        special: Further names for the template; see `marked` for a caller's.
        marker: Marks what looks like a control token in the chat.

    Raises:
        NoTemplateError: The model has no template.
        ChatRefusedError: Its template refuses these turns.
    """
    if not template:
        raise NoTemplateError("this model has no chat template: request a completion instead")
    continued = bool(turns) and turns[-1]["role"] == "assistant"
    names = {"bos_token": bos, "eos_token": eos, **special}
    with _refusals(turns):
        prompt = _compiled(template).render(
            names,
            messages=_messages(turns, marker, continued=continued),
            tools=None,
            documents=None,
            add_generation_prompt=not continued,
        )
    if "\0" in prompt:  # the library would silently end the text there
        raise ChatRefusedError("the model's chat template wrote a NUL character")
    return _open_end(prompt) if continued else prompt


_TEMPLATE_FAULTS: Final = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a model's template raises on messages for which it was not written."""
_SPACE: Final = "\N{OGHAM SPACE MARK}"
"""Whitespace that no template writes itself."""
_OPEN: Final = END + _SPACE
"""Appended to the message that the answer continues: if the whitespace is gone, the template trims.
"""
_NOT_ASCII: Final = re.compile(rf"[^\x00-\x7f{MARKS}]")


@contextmanager
def _refusals(turns: Sequence[Turn]) -> Iterator[None]:
    """Raise what a template raises as a refusal of these turns."""
    try:
        yield
    except _TEMPLATE_FAULTS as error:
        what = "a chat with tool calls" if _has_calls(turns) else "these messages"
        message = f"the model's chat template refuses {what}: {error}"
        raise ChatRefusedError(message) from error


def _messages(turns: Sequence[Turn], marker: Marker, *, continued: bool) -> list[Turn]:
    messages = [
        {key: value if key == "role" else marked(value, marker) for key, value in turn.items()}
        for turn in turns
    ]
    if continued:
        messages[-1]["content"] += _OPEN
    return messages


def marked(value: Any, marker: Marker) -> Any:
    """Return a JSON value with its texts marked."""
    match value:
        case str():
            return marker.mark(value)
        case list():
            return [marked(item, marker) for item in value]
        case dict():
            return {key: marked(item, marker) for key, item in value.items()}
    return value


def _open_end(prompt: str) -> str:
    """Cut the prompt off where the last message ends."""
    written, mark, rest = prompt.rpartition(END)
    if not mark:
        message = "the model's chat template leaves out the last message: end with the user's"
        raise ChatRefusedError(message)
    return written if rest.startswith(_SPACE) else written.rstrip()


class _GenerationBlock(Extension):
    """The statement `{% generation %}`, which marks the assistant's words in training."""

    tags: Final = {"generation"}  # type: ignore[misc]  # Jinja wants a set

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse the block. It writes its body and has its own scope, like a call block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


@lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _write_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _format_now
    return environment.from_string(template)


def _write_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - templates also pass it by position
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """Format a value as JSON, without Jinja's HTML escapes."""
    text = json.dumps(
        value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys
    )
    # Marks must stay intact, to be found later.
    return _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text) if ensure_ascii else text


def _refuse(message: Any) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _format_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _has_calls(turns: Sequence[Turn]) -> bool:
    """Return whether a turn calls a tool or has a tool's result, which not every template knows."""
    return any(turn["role"] == "tool" or turn.get("tool_calls") for turn in turns)
