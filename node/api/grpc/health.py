"""The service `grpc.health.v1.Health`, with the same rule as `/health`."""

from collections.abc import AsyncIterator
from typing import Final

import trio
from connectrpc.code import Code
from connectrpc.errors import ConnectError

from node.api.grpc.generated.distributed_llm.v1.inference_connect import Inference
from node.api.grpc.generated.grpc.health.v1.health_connect import Health
from node.api.grpc.generated.grpc.health.v1.health_pb import HealthCheckRequest, HealthCheckResponse
from node.api.grpc.interceptors import Context
from node.telemetry.status import NodeStatus

_Status = HealthCheckResponse.ServingStatus

_SERVICES: Final = frozenset({"", Inference.desc().type_name})
_LOOK_SECONDS: Final = 0.25
"""The polling interval of a watch. Readiness has several sources, and few clients watch it."""


class HealthService(Health):
    """Reports whether the node serves.

    Args:
        status: Knows whether the node serves.
        stopping: Set before the API closes.
    """

    def __init__(self, status: NodeStatus, stopping: trio.Event) -> None:
        self._node = status
        self._stopping = stopping

    async def check(self, request: HealthCheckRequest, ctx: Context) -> HealthCheckResponse:
        """Return the current status.

        Raises:
            ConnectError: The node has no such service.
        """
        del ctx
        if request.service not in _SERVICES:
            raise ConnectError(Code.NOT_FOUND, f"this node has no service {request.service!r}")
        return HealthCheckResponse(status=self._status(request.service))

    async def watch(
        self, request: HealthCheckRequest, ctx: Context
    ) -> AsyncIterator[HealthCheckResponse]:
        """Yield the current status and each change, until the API closes.

        Raises:
            ConnectError: The API closes.
        """
        del ctx
        sent: int | None = None
        while not self._stopping.is_set():
            status = self._status(request.service)
            if status != sent:
                yield HealthCheckResponse(status=status)
                sent = status
            with trio.move_on_after(_LOOK_SECONDS):
                await self._stopping.wait()
        raise ConnectError(Code.UNAVAILABLE, "the node stopped")

    def _status(self, service: str) -> HealthCheckResponse.ServingStatus:
        if service not in _SERVICES:
            return _Status.SERVICE_UNKNOWN
        return _Status.SERVING if self._node.serving else _Status.NOT_SERVING
