"""Responses of a node's API."""

from collections.abc import Iterator
from typing import Final

from exporter.metrics.catalogue.api import HTTP_DURATION, HTTP_REQUESTS, RPC_LATENCY, RPC_REQUESTS
from exporter.metrics.grouping import split_by
from exporter.metrics.rules.rule import Column, GroupRule, Rule, Sample, ones
from shared.events.api import HttpFinished, RpcFinished
from shared.events.event import Event


def _http_finished(node: str, finished: list[HttpFinished]) -> Iterator[Column]:
    for (route, method, status), group in split_by(finished, "route", "method", "status"):
        labels = (node, route, method, str(status))
        yield HTTP_REQUESTS, labels, ones(group)
        yield HTTP_DURATION, labels, [e.seconds for e in group]


def _rpc_finished(node: str, e: RpcFinished) -> tuple[Sample, ...]:
    labels = (node, e.method, e.code)
    return ((RPC_REQUESTS, labels, 1), (RPC_LATENCY, labels, e.seconds))


RULES: Final[dict[type[Event], Rule]] = {
    RpcFinished: _rpc_finished,
}
GROUP_RULES: Final[dict[type[Event], GroupRule]] = {
    HttpFinished: _http_finished,
}
