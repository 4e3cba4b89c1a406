"""Writes a chat as the prompt that its model was trained on, by the model file's own template.

The template is a Jinja program that came with the model: it runs in Jinja's immutable sandbox, and
in the engine child, where one that does not end is a hang like any other.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from node.engine.protocol import Turn


class ChatRefusedError(Exception):
    """The model's template does not take these messages; the text says why."""


class NoTemplateError(ChatRefusedError):
    """The model has no template: nobody knows its form of a chat."""


class _RefusedByTemplateError(Exception):
    """The template called `raise_exception`."""


def render_chat(template: str, turns: Sequence[Turn], bos: str, eos: str) -> str:
    """Give the prompt text for a chat, ready for the assistant's turn.

    The names that a template may use (`messages`, `bos_token`, `eos_token`,
    `add_generation_prompt`, `raise_exception`) are those of Hugging Face's chat templates. The
    engine puts the beginning-of-sequence token itself, so that one at the start is taken off.

    Raises:
        NoTemplateError: The model has no template.
        ChatRefusedError: Its template refuses these turns.
    """
    if not template:
        raise NoTemplateError("this model has no chat template: ask for a completion")
    try:
        prompt = _compiled(template).render(
            messages=list(turns), bos_token=bos, eos_token=eos, add_generation_prompt=True
        )
    except _TEMPLATE_FAULTS as error:
        message = f"the model's chat template refuses these messages: {error}"
        raise ChatRefusedError(message) from error
    if "\0" in prompt:  # the library would end the text there, without a word
        raise ChatRefusedError("the model's chat template wrote a NUL character")
    return prompt.removeprefix(bos)


_TEMPLATE_FAULTS: Final = (
    _RefusedByTemplateError,
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a program that came with a model raises when it meets messages it was not written for."""


@lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(template)


def _refuse(message: Any) -> NoReturn:
    raise _RefusedByTemplateError(str(message))
