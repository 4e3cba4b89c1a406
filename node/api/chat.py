"""Writes a chat as the prompt that its model was trained on, by the model file's own template.

The template is a Jinja program that came with the model: it runs in Jinja's immutable sandbox.
"""

from functools import lru_cache
from typing import Any, Final, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from node.api.schema import Message
from node.errors import InvalidRequestError


class _RefusedByTemplateError(Exception):
    """The template called `raise_exception`."""


def render_chat(template: str, messages: list[Message], bos: str, eos: str) -> str:
    """Give the prompt text for a chat, ready for the assistant's turn.

    The names that a template may use (`messages`, `bos_token`, `eos_token`,
    `add_generation_prompt`, `raise_exception`) are those of Hugging Face's chat templates. The
    engine puts the beginning-of-sequence token itself, so that one at the start is taken off.
    OpenAI's `developer` is what the templates call `system`.

    Raises:
        InvalidRequestError: The model has no template, or it refuses these messages.
    """
    if not template:
        message = "this model has no chat template: use /v1/completions"
        raise InvalidRequestError(message, parameter="messages", code="no_chat_template")
    turns = [_turn(message) for message in messages]
    try:
        prompt = _compiled(template).render(
            messages=turns, bos_token=bos, eos_token=eos, add_generation_prompt=True
        )
    except _TEMPLATE_FAULTS as error:
        message = f"the model's chat template refuses these messages: {error}"
        raise InvalidRequestError(message, parameter="messages") from error
    return prompt.removeprefix(bos)


def _turn(message: Message) -> dict[str, str]:
    role = "system" if message.role == "developer" else message.role
    turn = {"role": role, "content": message.text}
    return turn if message.name is None else turn | {"name": message.name}


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
