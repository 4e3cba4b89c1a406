"""The routes of Anthropic's Messages API."""

from quart import Response
from quart_trio import QuartTrio

from node.api import conversion
from node.api.anthropic.answer import MessageEvents, TokenCount, whole
from node.api.anthropic.conversion import chat_of
from node.api.anthropic.schema import CountTokensRequest, MessagesRequest
from node.api.calling import reading
from node.api.http.body import read_body
from node.api.http.front import Front, json_response
from node.api.http.tokens import show_prompt


def add_messages(app: QuartTrio, front: Front) -> None:
    """Add the routes to the application."""

    async def messages() -> Response:
        chat = chat_of(await read_body(MessagesRequest))
        wanted = conversion.chat_requests(chat, *front.caller(chat.model))
        model_id = wanted[0].model_id
        if chat.stream:
            return await front.stream(wanted, MessageEvents(model_id, reading(chat)))
        [(said, answer, ending)] = await front.read_all(wanted, reading(chat))
        return json_response(whole(model_id, said, answer, ending))

    async def count_tokens() -> Response:
        chat = chat_of(await read_body(CountTokensRequest))
        tokens, _ = await show_prompt(front, conversion.chat_prompt(chat), chat.model)
        return json_response(TokenCount(len(tokens)))

    app.add_url_rule("/v1/messages", "messages", messages, methods=["POST"])
    app.add_url_rule("/v1/messages/count_tokens", "count_tokens", count_tokens, methods=["POST"])
