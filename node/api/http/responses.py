"""The route of OpenAI's Responses API."""

import time

from quart import Response
from quart_trio import QuartTrio

from node.api import conversion
from node.api.calling import reading
from node.api.http.body import read_body
from node.api.http.front import Front, json_response
from node.api.responses.answer import ResponseWriter
from node.api.responses.conversion import chat_of
from node.api.responses.schema import ResponsesRequest


def add_responses(app: QuartTrio, front: Front) -> None:
    """Add the route to the application."""

    async def respond() -> Response:
        asked = await read_body(ResponsesRequest)
        chat = chat_of(asked)
        wanted = conversion.chat_requests(chat, *front.caller(chat.model))
        writer = ResponseWriter(asked, wanted[0].model_id, int(time.time()), reading(chat))
        if chat.stream:
            return await front.stream(wanted, writer)
        [(said, _, ending)] = await front.read_all(wanted, reading(chat))
        return json_response(writer.whole(said, ending))

    app.add_url_rule("/v1/responses", "responses", respond, methods=["POST"])
