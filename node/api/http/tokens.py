"""The routes that show a prompt as the model gets it: its tokens and its text."""

from quart import Response
from quart_trio import QuartTrio

from node.api import conversion
from node.api.http.body import read_body
from node.api.http.front import Front, json_response
from node.api.request_id import read_whole
from node.api.token_schema import (
    DetokenizeRequest,
    TemplateRequest,
    Text,
    TokenizeRequest,
    Tokens,
)
from node.requests.answer import Answer
from node.requests.request import Prompt


def add_tokens(app: QuartTrio, front: Front) -> None:
    """Add the routes to the application."""

    async def tokenize() -> Response:
        asked = await read_body(TokenizeRequest)
        chat = asked.chat()
        text = conversion.without_nul(asked.text, "prompt")
        prompt = text if chat is None else conversion.chat_prompt(chat)
        tokens, _ = await show_prompt(front, prompt, asked.model)
        return json_response(Tokens(tokens, len(tokens)))

    async def detokenize() -> Response:
        asked = await read_body(DetokenizeRequest)
        _, text = await show_prompt(front, tuple(asked.tokens), asked.model)
        return json_response(Text(text, text))

    async def apply_template() -> Response:
        asked = await read_body(TemplateRequest)
        prompt = conversion.chat_prompt(asked.chat())
        _, text = await show_prompt(front, prompt, asked.model)
        return json_response(Text(text, text))

    for path, view in (
        ("/tokenize", tokenize),
        ("/detokenize", detokenize),
        ("/apply-template", apply_template),
    ):
        app.add_url_rule(path, view.__name__, view, methods=["POST"])


async def show_prompt(
    front: Front, prompt: Prompt, model: str | None
) -> tuple[tuple[int, ...], str]:
    """Wait for a prompt's tokens and its text, as the model gets it.

    Raises:
        RequestError: The model cannot be asked, or refuses the prompt.
    """
    shown: list[tuple[tuple[int, ...], str]] = []

    async def keep(_: int, answer: Answer) -> None:
        await read_whole(answer)
        shown.append(answer.prompt)

    await front.run([conversion.token_request(prompt, *front.caller(model))], keep)
    return shown[0]
