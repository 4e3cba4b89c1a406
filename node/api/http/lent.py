"""Answers coordinators on other nodes: the route by which they claim and use workers here."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final, cast

import trio
from quart import Response, request
from quart_trio import QuartTrio

from node.api.edge.asgi import COUNTED_ELSEWHERE, ROUTE, Scope, connection_of
from node.errors import InvalidRequestError, RequestError, UnauthorizedError
from node.pipeline.lender import Lender
from node.pipeline.messages import PATH, PROTOCOL, Claiming, read_request
from node.routing import wire
from node.routing.signature import Signer
from shared.events.event import Event
from shared.events.mesh import NetworkFailed
from shared.events.pipelines import WorkerRefused

_HTTP_VERSION: Final = "1.1"


class UpgradeRequiredError(InvalidRequestError):
    """The request does not leave HTTP, as this path requires."""

    status = 426
    code = "upgrade_required"


class OtherNodeError(RequestError):
    """The request was signed for another node."""

    status = 421
    kind = "invalid_request_error"
    code = "other_node"


def add_lent(
    app: QuartTrio,
    lender: Lender,
    node_id: str,
    signer: Signer,
    emit: Callable[[Event], None],
) -> None:
    """Add the route by which the application lends this node's workers.

    Args:
        app: The application.
        lender: Takes over the connections of accepted requests.
        node_id: This node.
        signer: Knows whether a request comes from a node of the mesh.
        emit: Receives events.
    """

    async def tunnel() -> Response:
        request.scope[ROUTE] = COUNTED_ELSEWHERE  # type: ignore[typeddict-unknown-key]
        body: bytes = await request.body
        if not signer.check(request.headers.get(wire.SIGNATURE, ""), body, time.time()):
            emit(NetworkFailed("unauthenticated", 1))
            emit(WorkerRefused("unauthenticated"))
            raise UnauthorizedError(
                "this request is not signed by a node of the mesh, or is too old"
            )
        try:
            asked = read_request(body)
        except ValueError as error:
            raise InvalidRequestError(f"the body asks for no worker: {error}") from error
        asked_node = asked.claim.node_id if isinstance(asked, Claiming) else asked.node_id
        if asked_node != node_id:
            raise OtherNodeError(f"this node is {node_id}")
        connection = connection_of(cast(Scope, request.scope))
        is_upgrade = request.headers.get("Upgrade", "") == PROTOCOL
        if connection is None or request.http_version != _HTTP_VERSION or not is_upgrade:
            raise UpgradeRequiredError(f"this path requires HTTP/1.1 with `Upgrade: {PROTOCOL}`")
        if isinstance(asked, Claiming):
            connection.hand_over(partial(lender.keep, asked.claim))
        else:
            connection.hand_over(partial(lender.attach, asked.pipeline_id))
        return await trio.sleep_forever()  # until HTTP on this connection has ended

    app.add_url_rule(PATH, "lent", tunnel, methods=["POST"])
