"""What the routes of every protocol do: admit a caller's requests, and read the answers.

A protocol's own module translates: its body into requests, and the answers into its own objects and
events.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from quart import Response, g, request

from node.api.answers import Whole, read_all
from node.api.batch import Batch
from node.api.edge.asgi import CLIENT, ROUTE
from node.api.edge.owner import owner_of
from node.api.http.direct import DirectBody
from node.api.http.stream import BatchBody, EventWriter, PiecesBody, answer_body
from node.api.origin import with_origin
from node.api.parts.listening import Read
from node.requests.answer import Answer
from node.requests.request import InferenceRequest
from node.routing.router import Router

_encoder = msgspec.json.Encoder()


class Front:
    """Answers the current HTTP request.

    Args:
        router: Accepts the requests.
        default_model: Served if a request names no model.
    """

    def __init__(self, router: Router, default_model: str) -> None:
        self._router = router
        self._default_model = default_model

    def caller(self, model: str | None) -> tuple[str, str, str]:
        """Return the model, the request's id and the client for the requests of this caller.

        The client is the owner of the key if one is required, else the address.
        """
        client = str(request.scope.get(CLIENT) or request.remote_addr or "")
        return model or self._default_model, g.request_id, client

    async def read_all(self, wanted: list[InferenceRequest], read: Read) -> list[Whole]:
        """Wait for the ends of all answers; see `node.api.answers.read_all`."""
        return await read_all(wanted, self.admission(), read)

    async def stream(self, wanted: list[InferenceRequest], writer: EventWriter) -> Response:
        """Wait until the first request is accepted. Return the response that streams the answers.

        Raises:
            RequestError: The first request was not accepted.
        """
        admit = self.admission()
        first = admit(wanted[0])
        await first.wait_accepted()  # the status is held back until it is known to be 200
        body: PiecesBody | BatchBody = answer_body(first, writer)
        if len(wanted) > 1:
            batch = Batch(wanted, lambda one: first if one is wanted[0] else admit(one))
            body = BatchBody(batch, writer)
        response = Response(DirectBody(body, request.scope), content_type="text/event-stream")
        response.headers["Cache-Control"] = "no-store"
        response.timeout = None
        return response

    def admission(self) -> Callable[[InferenceRequest], Answer]:
        """Return what admits requests for the owner of the current HTTP request."""
        scope, owner = request.scope, owner_of(request.scope)

        def admit(wanted: InferenceRequest) -> Answer:
            traced = with_origin(wanted, scope, scope[ROUTE])  # type: ignore[typeddict-item]
            return self._router.admit(traced, owner)

        return admit


def json_response(body: Any, status: int = 200) -> Response:
    """Return a response with a JSON body."""
    return Response(_encoder.encode(body), status, content_type="application/json")
