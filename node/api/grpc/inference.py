"""The service `distributed_llm.v1.Inference`: converts messages for the scheduler and back.

Validation and limits are those of the HTTP API, because both use the same structs.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Final, Literal

from protobuf import Oneof

from node.api import conversion, reading
from node.api.chat_schema import ChatRequest
from node.api.edge.owner import owner_of
from node.api.grpc.generated.distributed_llm.v1 import inference_pb as pb
from node.api.grpc.generated.distributed_llm.v1.inference_connect import Inference
from node.api.grpc.interceptors import (
    SCOPE,
    Context,
    client_of,
    deadline_seconds,
    is_out_of_time,
    method_of,
    request_id,
)
from node.api.origin import with_origin
from node.api.request_id import read_whole
from node.api.schema import CompletionRequest
from node.errors import InvalidRequestError
from node.requests.answer import Answer, Delta, Ending
from node.requests.request import InferenceRequest
from node.routing.peer_offers import PeerOffers
from node.routing.router import Router
from node.serving.lane import Lane
from node.serving.scheduler import Scheduler
from node.telemetry.status import NodeStatus
from shared import events

_Text = Oneof[Literal["text"], str]
_Ending = Oneof[Literal["ending"], pb.Ending]

_FINISH_REASONS: Final = {
    "stop": pb.FinishReason.STOP,
    "length": pb.FinishReason.LENGTH,
}

_MODEL_STATES: Final = {
    "unloaded": pb.ModelState.UNLOADED,
    "loading": pb.ModelState.LOADING,
    "ready": pb.ModelState.READY,
    "failed": pb.ModelState.FAILED,
}


class InferenceService(Inference):
    """Serves the scheduler's models over gRPC.

    Args:
        scheduler: Knows this node's models.
        router: Accepts the requests.
        status: Reports the node's state.
        peers: Knows the other nodes and their offers.
        node_id: The node's name.
        default_model: Served if a request names no model.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        router: Router,
        status: NodeStatus,
        peers: PeerOffers,
        *,
        node_id: str,
        default_model: str,
    ) -> None:
        self._scheduler = scheduler
        self._router = router
        self._status = status
        self._peers = peers
        self._node_id = node_id
        self._default_model = default_model

    async def generate(self, request: pb.GenerateRequest, ctx: Context) -> pb.GenerateResponse:
        """Generate the complete answer."""
        answer = self._admit(request, ctx, streamed=False)
        text, ending = await read_whole(answer)
        return pb.GenerateResponse(text=text, ending=_ending(answer, ending))

    async def generate_stream(
        self, request: pb.GenerateRequest, ctx: Context
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        """Generate the answer in pieces, with several tokens per piece if they are available."""
        answer = self._admit(request, ctx, streamed=True)
        while isinstance(received := await answer.receive(), Delta):
            more = answer.receive_more()
            if text := "".join(delta.text for delta in (received, *more)):
                yield pb.GenerateStreamResponse(part=_Text("text", text))
        yield pb.GenerateStreamResponse(part=_Ending("ending", _ending(answer, received)))

    async def list_models(self, _: pb.ListModelsRequest, ctx: Context) -> pb.ListModelsResponse:
        """List all models of the node."""
        del ctx
        return pb.ListModelsResponse(models=[_model(lane) for lane in self._scheduler.lanes])

    async def load_model(self, request: pb.LoadModelRequest, ctx: Context) -> pb.LoadModelResponse:
        """Load a model and keep it."""
        del ctx
        await self._scheduler.load(request.model)
        return pb.LoadModelResponse(model=_model(self._scheduler.find(request.model)))

    async def unload_model(
        self, request: pb.UnloadModelRequest, ctx: Context
    ) -> pb.UnloadModelResponse:
        """Unload a model when its requests are done."""
        del ctx
        await self._scheduler.unload(request.model)
        return pb.UnloadModelResponse(model=_model(self._scheduler.find(request.model)))

    async def get_resources(
        self, _: pb.GetResourcesRequest, ctx: Context
    ) -> pb.GetResourcesResponse:
        """Return the node's levels, as in telemetry."""
        del ctx
        response = pb.GetResourcesResponse(node_id=self._node_id)
        for level in self._status.levels():
            match level:
                case events.NodeStarted():
                    response.version = level.version
                    response.uptime_seconds = time.time() - level.started_at
                case events.NodeStateChanged():
                    response.state = level.state
                case events.ResourcesSampled():
                    response.cpu_cores = level.cpu_cores
                    response.memory_bytes = level.memory_bytes
                    response.max_layers = level.max_layers
                    response.used_layers = level.used_layers
                case events.SystemSampled():
                    response.available_memory_bytes = level.available_bytes
                    response.used_memory_bytes = level.rss_bytes + level.engine_rss_bytes
        return response

    async def get_peers(self, _: pb.GetPeersRequest, ctx: Context) -> pb.GetPeersResponse:
        """List the peers."""
        del ctx
        peers = [
            pb.Peer(
                node_id=peer.view.node_id,
                api_url=peer.api_url,
                state=peer.view.state,
                status=peer.status,
                models=[model.model_id for model in peer.models],
            )
            for peer in self._peers.known()
        ]
        return pb.GetPeersResponse(peers=peers)

    def _admit(self, request: pb.GenerateRequest, ctx: Context, *, streamed: bool) -> Answer:
        wanted = self._want(request, request_id(ctx), streamed=streamed)
        wanted = replace(wanted, deadline_seconds=deadline_seconds(ctx))
        wanted = with_origin(wanted, SCOPE.get(), method_of(ctx))
        owner = owner_of(SCOPE.get())
        answer = self._router.admit(wanted, owner)
        owner.callback(_expire_late, answer, ctx)  # before the owner closes the answer
        return answer

    def _want(
        self, request: pb.GenerateRequest, identity: str, *, streamed: bool
    ) -> InferenceRequest:
        fields: dict[str, Any] = {field.name: request[field] for field in request}
        fields["stream"] = streamed
        model_id = request.model or self._default_model
        chat: pb.Chat | None = fields.pop("chat", None)
        if chat is not None:
            fields["messages"] = [{"role": m.role, "content": m.content} for m in chat.messages]
            turns = reading.convert(fields, ChatRequest)
            [wanted] = conversion.chat_requests(turns, model_id, identity, client_of())
            return wanted
        if "prompt" not in fields:
            raise InvalidRequestError("send a prompt or a chat", parameter="prompt")
        asked = reading.convert(fields, CompletionRequest)
        [wanted] = conversion.completion_requests(asked, model_id, identity, client_of())
        return wanted


def _expire_late(answer: Answer, ctx: Context) -> None:
    """End an answer as late if its caller left because the call's deadline had passed."""
    if is_out_of_time(ctx):
        answer.expire()


def _ending(answer: Answer, ending: Ending) -> pb.Ending:
    return pb.Ending(
        model=answer.request.model_id,
        finish_reason=_FINISH_REASONS[ending.finish_reason],
        usage=pb.Usage(
            prompt_tokens=ending.prompt_tokens,
            cached_tokens=ending.cached_tokens,
            generated_tokens=ending.generated_tokens,
        ),
    )


def _model(lane: Lane) -> pb.Model:
    engine = lane.engine
    model = pb.Model(
        id=engine.model_id,
        state=_MODEL_STATES[engine.state],
        context_length=engine.context_length,
    )
    if (described := engine.described) is not None:
        model.architecture = described.architecture
        model.quantization = described.quantization
        model.engine = described.engine
        model.size_bytes = described.size_bytes
        model.layers = described.layers
    return model
