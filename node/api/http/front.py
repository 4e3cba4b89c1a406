"""What the routes of every protocol do: admit a caller's requests, and read the answers.

A protocol's own module translates: its body into requests, and the answers into its own objects and
events.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from quart import Response, g, request

from node.api.batch import Admit, Batch, Read
from node.api.edge.asgi import CLIENT, ROUTE
from node.api.edge.owner import owner_of
from node.api.http.stream import BatchBody, EventWriter, answer_body
from node.api.origin import with_origin
from node.api.parts.part import PartReader, Said, collect
from node.api.request_id import read_whole
from node.requests.answer import Answer, Ending
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

    async def run(self, wanted: list[InferenceRequest], read: Read) -> None:
        """Answer requests, several at a time; raises like `Batch.run`."""
        await Batch(wanted, self._admission()).run(read)

    async def read_all(
        self, wanted: list[InferenceRequest], read: Callable[[], PartReader]
    ) -> list[tuple[Said, Answer, Ending]]:
        """Wait for the ends of all answers. Return what they say, in order.

        Args:
            wanted: The requests.
            read: Returns what reads the parts of one answer.

        Raises:
            RequestError: A request failed.
        """
        wholes: dict[int, tuple[Said, Answer, Ending]] = {}

        async def keep(number: int, answer: Answer) -> None:
            text, ending = await read_whole(answer)
            reader = read()
            wholes[number] = collect([*reader.feed(text), *reader.finish()]), answer, ending

        await self.run(wanted, keep)
        return [wholes[number] for number in range(len(wanted))]

    async def stream(self, wanted: list[InferenceRequest], writer: EventWriter) -> Response:
        """Wait until the first request is accepted. Return the response that streams the answers.

        Raises:
            RequestError: The first request was not accepted.
        """
        admit = self._admission()
        first = admit(wanted[0])
        await first.wait_accepted()  # the status is held back until it is known to be 200
        body = answer_body(first, writer)
        if len(wanted) > 1:
            batch = Batch(wanted, lambda one: first if one is wanted[0] else admit(one))
            body = BatchBody(batch, writer)
        response = Response(body, content_type="text/event-stream")
        response.headers["Cache-Control"] = "no-store"
        response.timeout = None
        return response

    def _admission(self) -> Admit:
        """Return what admits requests for the owner of the current HTTP request."""
        scope, owner = request.scope, owner_of(request.scope)

        def admit(wanted: InferenceRequest) -> Answer:
            traced = with_origin(wanted, scope, scope[ROUTE])  # type: ignore[typeddict-item]
            return self._router.admit(traced, owner)

        return admit


def json_response(body: Any, status: int = 200) -> Response:
    """Return a response with a JSON body."""
    return Response(_encoder.encode(body), status, content_type="application/json")
