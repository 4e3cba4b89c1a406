"""Every event, status, route and method that a node with two models and four peers can emit."""

import itertools
from collections.abc import Iterator
from typing import Final, get_args

import msgspec

from shared.events.api import HttpFinished, RpcFinished
from shared.events.event import Event
from shared.events.mesh import (
    Direction,
    MessagesMoved,
    MessageType,
    NetworkFailed,
    NetworkFault,
    PeerAnswered,
    PeerChanged,
    PeerOperation,
)
from shared.events.models import LoadStage, ModelLoadProgressed, ModelUnloaded
from shared.events.node import CertificateRead, CertificateUse
from shared.events.pipelines import WorkerEnd, WorkerEnded, WorkerRefusal, WorkerRefused
from shared.events.requests import RequestStatus
from tests.builders import every_event, finished

MODELS: Final = ("first", "second")
PEERS: Final = ("n2", "n3", "n4", "n5")
_COMPLETIONS: Final = (200, 400, 429, 499, 503)
UNKNOWN: Final = ("unknown", "GET")
"""The route that the node records for an unknown path."""
ROUTES: Final = {
    ("/", "GET"): (200, 304),
    ("/pages/<name>", "GET"): (200, 304),
    UNKNOWN: (404,),
    ("/health", "GET"): (200, 503),
    ("/livez", "GET"): (200,),
    ("/openapi.json", "GET"): (200,),
    ("/v1/models", "GET"): (200,),
    ("/v1/models/<path:model_id>", "GET"): (200, 404),
    ("/v1/completions", "POST"): _COMPLETIONS,
    ("/v1/chat/completions", "POST"): _COMPLETIONS,
    ("/v1/embeddings", "POST"): _COMPLETIONS,
    ("/v1/responses", "POST"): _COMPLETIONS,
    ("/v1/messages", "POST"): _COMPLETIONS,
    ("/v1/messages/count_tokens", "POST"): (200,),
    ("/v1/rerank", "POST"): (200,),
    ("/tokenize", "POST"): (200,),
    ("/detokenize", "POST"): (200,),
    ("/apply-template", "POST"): (200,),
    ("/cluster", "GET"): (200,),
}
_GENERATIONS: Final = (
    "ok",
    "invalid_argument",
    "resource_exhausted",
    "cancelled",
    "deadline_exceeded",
    "unavailable",
)
_INFERENCE: Final = "distributed_llm.v1.Inference"
_METHODS: Final = {
    "grpc.health.v1.Health/Check": ("ok",),
    "grpc.health.v1.Health/Watch": ("ok",),
    f"{_INFERENCE}/Generate": _GENERATIONS,
    f"{_INFERENCE}/GenerateStream": _GENERATIONS,
    f"{_INFERENCE}/Embed": ("ok",),
    f"{_INFERENCE}/Rerank": ("ok",),
    f"{_INFERENCE}/Tokenize": ("ok",),
    f"{_INFERENCE}/Detokenize": ("ok",),
    f"{_INFERENCE}/ListModels": ("ok",),
    f"{_INFERENCE}/LoadModel": ("ok",),
    f"{_INFERENCE}/UnloadModel": ("ok",),
    f"{_INFERENCE}/GetResources": ("ok",),
    f"{_INFERENCE}/GetPeers": ("ok",),
}


def whole_node() -> list[Event]:
    """Yield the events, except those that remove a model or a peer."""
    kept = [
        event
        for model_id in MODELS
        for event in every_event(model_id)
        if not isinstance(event, ModelUnloaded | PeerChanged | PeerAnswered)
    ]
    return [*kept, *_ends(), *_calls(), *_mesh()]


def _ends() -> Iterator[Event]:
    for model_id, status in itertools.product(MODELS, get_args(RequestStatus)):
        yield msgspec.structs.replace(
            finished(model_id), status=status, discarded_tokens=1, request_id=f"{model_id}-{status}"
        )
    for model_id, stage in itertools.product(MODELS, get_args(LoadStage)):
        yield ModelLoadProgressed(model_id, stage, 3, 4)


def _calls() -> Iterator[Event]:
    for (route, method), statuses in ROUTES.items():
        for status in statuses:
            yield HttpFinished(route, method, status, 0.5)
    for method, codes in _METHODS.items():
        for code in codes:
            yield RpcFinished(method, code, 0.5)


def _mesh() -> Iterator[Event]:
    for peer in PEERS:
        yield PeerChanged(peer, "alive", "online")
        for operation in get_args(PeerOperation):
            yield PeerAnswered(peer, operation, 0.002)
    kinds = itertools.product(get_args(Direction), get_args(MessageType))
    for direction, message_type in kinds:
        yield MessagesMoved(direction, message_type, 3, 600)
    for reason in get_args(NetworkFault):
        yield NetworkFailed(reason, 1)
    for refusal in get_args(WorkerRefusal):
        yield WorkerRefused(refusal)
    for end in get_args(WorkerEnd):
        yield WorkerEnded(end)
    for use in get_args(CertificateUse):
        yield CertificateRead(use, 1.9e9)
