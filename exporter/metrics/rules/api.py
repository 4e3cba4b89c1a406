"""Responses of a node's API."""

from typing import Final

from exporter.metrics.catalogue.api import HTTP_DURATION, HTTP_REQUESTS, RPC_LATENCY, RPC_REQUESTS
from exporter.metrics.rules.rule import Rule, Sample
from shared.events.api import HttpFinished, RpcFinished
from shared.events.event import Event


def _http_finished(node: str, e: HttpFinished) -> tuple[Sample, ...]:
    labels = (node, e.route, e.method, str(e.status))
    return ((HTTP_REQUESTS, labels, 1), (HTTP_DURATION, labels, e.seconds))


def _rpc_finished(node: str, e: RpcFinished) -> tuple[Sample, ...]:
    labels = (node, e.method, e.code)
    return ((RPC_REQUESTS, labels, 1), (RPC_LATENCY, labels, e.seconds))


RULES: Final[dict[type[Event], Rule]] = {
    HttpFinished: _http_finished,
    RpcFinished: _rpc_finished,
}
