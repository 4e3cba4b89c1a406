"""The routes that show a prompt as the model gets it: its tokens and its text."""

from quart import Response
from quart_trio import QuartTrio

from node.api import conversion
from node.api.answers import Shown, read_prompt
from node.api.http.body import read_body
from node.api.http.front import Front, json_response
from node.api.token_schema import (
    DetokenizeRequest,
    TemplateRequest,
    Text,
    TokenizeRequest,
    Tokens,
)
from node.requests.request import Prompt


def add_tokens(app: QuartTrio, front: Front) -> None:
    """Add the routes to the application."""

    async def tokenize() -> Response:
        asked = await read_body(TokenizeRequest)
        tokens, _ = await show_prompt(front, conversion.tokenize_prompt(asked), asked.model)
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


async def show_prompt(front: Front, prompt: Prompt, model: str | None) -> Shown:
    """Wait for a prompt's tokens and its text, as the model gets it.

    Raises:
        RequestError: The model cannot be asked, or refuses the prompt.
    """
    wanted = conversion.token_request(prompt, *front.caller(model))
    return await read_prompt(wanted, front.admission())
