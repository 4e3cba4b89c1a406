"""The routes of the node's HTTP API."""

import functools
import logging
import time
from collections.abc import Callable

import msgspec
from msgspec import UNSET
from quart import Response, g, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from node.api import conversion, schema
from node.api.answers import read_vectors
from node.api.anthropic import answer
from node.api.calling import reading
from node.api.chat_schema import ChatRequest
from node.api.edge.asgi import ROUTE
from node.api.http import openapi
from node.api.http.answer import (
    EmbeddingList,
    Health,
    Model,
    ModelList,
    embedding,
)
from node.api.http.body import BODY_BYTES, read_body
from node.api.http.events import TextEvents, usage_of
from node.api.http.front import Front, json_response
from node.api.http.messages import add_messages
from node.api.http.paths import explain
from node.api.http.rerank import add_rerank
from node.api.http.responses import add_responses
from node.api.http.tokens import add_tokens
from node.api.http.writer import AnswerWriter
from node.api.json_text import shown
from node.api.logprobs import ChatLog, CompletionLog, Log, TokenLog
from node.api.pages.page import add_page
from node.api.parts.part import Said
from node.api.request_id import REQUEST_ID, choose_request_id
from node.api.schema import CompletionRequest, EmbeddingRequest, PromptUsage
from node.errors import InvalidRequestError, RequestError
from node.requests.answer import Answer, Ending
from node.requests.request import InferenceRequest
from node.routing.router import Router
from node.serving.scheduler import Scheduler
from node.telemetry.status import NodeStatus

_log = logging.getLogger(__name__)


def build_app(
    scheduler: Scheduler, router: Router, status: NodeStatus, default_model: str
) -> QuartTrio:
    """Build the ASGI application.

    Args:
        scheduler: Knows this node's models.
        router: Accepts the requests.
        status: Reports the node's state.
        default_model: Served if a request names no model.
    """
    app = QuartTrio(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES
    # Quart would silently cut off a stream after a minute.
    app.config["RESPONSE_TIMEOUT"] = None
    front = Front(router, default_model)
    routes = _Routes(scheduler, router, status, front)
    for path, method, view in (
        ("/health", "GET", routes.health),
        ("/livez", "GET", routes.livez),
        ("/openapi.json", "GET", routes.openapi),
        ("/v1/models", "GET", routes.models),
        ("/v1/models/<path:model_id>", "GET", routes.model),
        ("/v1/completions", "POST", routes.complete),
        ("/v1/chat/completions", "POST", routes.chat),
        ("/v1/embeddings", "POST", routes.embed),
    ):
        app.add_url_rule(path, view.__name__, view, methods=[method])
    add_tokens(app, front)
    add_rerank(app, front)
    add_messages(app, front)
    add_responses(app, front)
    add_page(app)
    app.before_request(_note_route)
    app.after_request(_show_request_id)
    app.register_error_handler(RequestError, _answer_request_error)
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(Exception, _answer_bug)
    return app


class _Routes:
    def __init__(
        self, scheduler: Scheduler, router: Router, status: NodeStatus, front: Front
    ) -> None:
        self._scheduler = scheduler
        self._router = router
        self._status = status
        self._front = front
        self._created = int(time.time())
        self._openapi = openapi.describe()

    async def health(self) -> Response:
        """Return 200 if every model that must be loaded is loaded, else 503 and why."""
        all_engines = [lane.engine for lane in self._scheduler.lanes]
        engines = {engine.model_id: engine.state for engine in all_engines}
        state = self._status.state
        healthy = self._status.serving
        faults = {engine.model_id: engine.fault for engine in all_engines if engine.fault}
        body = Health("ok" if healthy else "unavailable", state, engines, faults or UNSET)
        return json_response(body, 200 if healthy else 503)

    async def livez(self) -> Response:
        """Return 200, which shows that the event loop is running, and no more."""
        return Response("ok\n", content_type="text/plain; charset=utf-8")

    async def openapi(self) -> Response:
        """Return the description of this API."""
        return json_response(self._openapi)

    async def models(self) -> Response:
        """Return the list of served models."""
        return json_response(
            ModelList([self._model(model_id) for model_id in self._router.models()])
        )

    async def model(self, model_id: str) -> Response:
        """Return one model."""
        if model_id not in self._router.models():
            self._scheduler.find(model_id)
        return json_response(self._model(model_id))

    async def complete(self) -> Response:
        """Continue a text."""
        asked = await read_body(CompletionRequest)
        wanted = conversion.completion_requests(asked, *self._front.caller(asked.model))
        return await self._answer(asked, wanted)

    async def chat(self) -> Response:
        """Write the assistant's next message in a chat."""
        asked = await read_body(ChatRequest)
        wanted = conversion.chat_requests(asked, *self._front.caller(asked.model))
        return await self._answer(asked, wanted)

    async def embed(self) -> Response:
        """Return the texts' vectors."""
        asked = await read_body(EmbeddingRequest)
        packed = asked.encoding_format == "base64"
        wanted = conversion.embedding_requests(asked, *self._front.caller(asked.model))
        vectors, tokens = await read_vectors(wanted, self._front.admission())
        written = [embedding(number, one, packed=packed) for number, one in enumerate(vectors)]
        usage = PromptUsage(tokens, tokens)
        return json_response(EmbeddingList(wanted[0].model_id, written, usage))

    def _model(self, model_id: str) -> Model:
        length = self._router.context_length(model_id)
        return Model(model_id, self._created, max_model_len=length or UNSET)

    async def _answer(
        self, asked: CompletionRequest | ChatRequest, wanted: list[InferenceRequest]
    ) -> Response:
        is_chat = isinstance(asked, ChatRequest)
        writer = AnswerWriter(
            wanted[0].model_id, int(time.time()), chat=is_chat, with_usage=asked.wants_usage()
        )
        read = reading(asked)
        log = None
        if (likeliest := asked.likeliest) is not None:
            log = functools.partial(ChatLog if is_chat else CompletionLog, likeliest)
        if asked.stream:
            running = asked.wants_running_usage()
            events = TextEvents(writer, asked.answers, read, log, running=running)
            return await self._front.stream(wanted, events)
        wholes = await self._front.read_all(wanted, read)
        thoughts = sum(said.thought_tokens for said, *_ in wholes)
        usage = usage_of([ending for *_, ending in wholes], asked.answers, thoughts)
        return json_response(writer.whole([_whole(*one, log) for one in wholes], usage))


def _whole(
    said: Said, answer: Answer, ending: Ending, log: Callable[[], TokenLog] | None
) -> tuple[Said, str, Log | None]:
    """Return an answer with its finish reason and likelihoods, after the prompt if it echoes."""
    tokens, text = answer.echoed or ((), "")
    said = msgspec.structs.replace(said, words=text + said.words)
    described = log().take([*tokens, *answer.tokens]) if log else None
    return said, ending.finish_reason, described


async def _show_request_id(response: Response) -> Response:
    response.headers[REQUEST_ID] = g.request_id
    return response


async def _note_route() -> None:
    g.request_id = choose_request_id(request.headers.get(REQUEST_ID, ""))
    if request.url_rule is not None:
        request.scope[ROUTE] = request.url_rule.rule  # type: ignore[typeddict-unknown-key]


async def _answer_request_error(error: RequestError) -> Response:
    is_anthropic = request.path.startswith("/v1/messages")
    body = answer.error_body(error) if is_anthropic else schema.error_body(error)
    response = json_response(body, error.status)
    response.headers.update(error.headers())
    return response


async def _answer_http_error(error: HTTPException) -> Response:
    if (error.code or 500) >= 500:
        return await _answer_bug(error)
    refused = InvalidRequestError(f"{request.method} {shown(request.path)}: {_reason(error)}")
    response = json_response(schema.error_body(refused), error.code or 400)
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = _allowed(error)
    return response


def _reason(error: HTTPException) -> str:
    match error.code:
        case 404:
            return explain(request.path)
        case 405 if isinstance(error, MethodNotAllowed):
            return f"this path supports only {_allowed(error)}"
        case 413:
            return f"the body is larger than {BODY_BYTES} bytes"
    return str(error.description)


def _allowed(error: MethodNotAllowed) -> str:
    return ", ".join(sorted(error.valid_methods or ()))


async def _answer_bug(error: Exception) -> Response:
    _log.exception("a request failed because of an internal error", exc_info=error)
    return json_response(schema.error_body(RequestError("internal error; see the node's log")), 500)
