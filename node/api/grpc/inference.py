"""The service `Inference`: translates messages for the node, and answers into messages."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace

from node.api import conversion
from node.api.answers import read_all, read_prompt, read_scores, read_vectors
from node.api.batch import Admit
from node.api.calling import reading
from node.api.chat_schema import ChatRequest
from node.api.edge.owner import owner_of
from node.api.grpc import documents, messages, state, streaming
from node.api.grpc.generated.distributed_llm.v1 import inference_pb as pb
from node.api.grpc.generated.distributed_llm.v1.inference_connect import Inference
from node.api.grpc.interceptors import (
    NURSERY,
    SCOPE,
    Context,
    client_of,
    deadline_seconds,
    is_out_of_time,
    method_of,
    request_id,
)
from node.api.origin import with_origin
from node.api.rerank_schema import RerankRequest
from node.api.schema import CompletionRequest, EmbeddingRequest
from node.api.token_schema import DetokenizeRequest
from node.requests.answer import Answer
from node.requests.request import InferenceRequest
from node.routing.peer_offers import PeerOffers
from node.routing.router import Router
from node.serving.scheduler import Scheduler
from node.telemetry.status import NodeStatus

_Generation = CompletionRequest | ChatRequest


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
        """Generate complete answers."""
        asked = documents.generation(request, streamed=False)
        wanted = self._requests(asked, ctx)
        return messages.whole(await read_all(wanted, self._admission(ctx), reading(asked)))

    def generate_stream(
        self, request: pb.GenerateRequest, ctx: Context
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        """Generate answers in pieces, with several tokens per piece if they are available."""
        asked = documents.generation(request, streamed=True)
        wanted, admit = self._requests(asked, ctx), self._admission(ctx)
        writer = messages.StreamWriter(reading(asked), running=asked.wants_running_usage())
        if len(wanted) > 1:
            return streaming.read_several(wanted, admit, writer, NURSERY.get())
        answer = owner_of(SCOPE.get()).enter_context(admit(wanted[0]))
        return streaming.read_one(answer, writer)

    async def embed(self, request: pb.EmbedRequest, ctx: Context) -> pb.EmbedResponse:
        """Turn texts into vectors."""
        asked = documents.plain(request, EmbeddingRequest)
        wanted = conversion.embedding_requests(asked, *self._caller(asked.model, ctx))
        vectors, tokens = await read_vectors(wanted, self._admission(ctx))
        return pb.EmbedResponse(
            model=wanted[0].model_id,
            embeddings=[pb.Embedding(values=list(vector)) for vector in vectors],
            usage=messages.usage(tokens),
        )

    async def rerank(self, request: pb.RerankRequest, ctx: Context) -> pb.RerankResponse:
        """Sort documents by a query."""
        asked = documents.plain(request, RerankRequest)
        wanted = conversion.rank_requests(asked, *self._caller(asked.model, ctx))
        scores, tokens = await read_scores(wanted, self._admission(ctx))
        results = [
            pb.RankedDocument(index=one.index, relevance_score=one.relevance_score)
            for one in asked.ranked(scores)
        ]
        model_id = wanted[0].model_id
        return pb.RerankResponse(model=model_id, results=results, usage=messages.usage(tokens))

    async def tokenize(self, request: pb.TokenizeRequest, ctx: Context) -> pb.TokenizeResponse:
        """Show a prompt's tokens and its text."""
        asked = documents.shown_prompt(request)
        prompt = conversion.tokenize_prompt(asked)
        wanted = conversion.token_request(prompt, *self._caller(asked.model, ctx))
        tokens, text = await read_prompt(wanted, self._admission(ctx))
        return pb.TokenizeResponse(tokens=list(tokens), text=text)

    async def detokenize(
        self, request: pb.DetokenizeRequest, ctx: Context
    ) -> pb.DetokenizeResponse:
        """Show the text of tokens."""
        asked = documents.plain(request, DetokenizeRequest)
        caller = self._caller(asked.model, ctx)
        wanted = conversion.token_request(tuple(asked.tokens), *caller)
        _, text = await read_prompt(wanted, self._admission(ctx))
        return pb.DetokenizeResponse(text=text)

    async def list_models(self, _: pb.ListModelsRequest, ctx: Context) -> pb.ListModelsResponse:
        """List all models of the node."""
        del ctx
        return pb.ListModelsResponse(models=[state.model(lane) for lane in self._scheduler.lanes])

    async def load_model(self, request: pb.LoadModelRequest, ctx: Context) -> pb.LoadModelResponse:
        """Load a model and keep it."""
        del ctx
        await self._scheduler.load(request.model)
        return pb.LoadModelResponse(model=state.model(self._scheduler.find(request.model)))

    async def unload_model(
        self, request: pb.UnloadModelRequest, ctx: Context
    ) -> pb.UnloadModelResponse:
        """Unload a model when its requests are done."""
        del ctx
        await self._scheduler.unload(request.model)
        return pb.UnloadModelResponse(model=state.model(self._scheduler.find(request.model)))

    async def get_resources(
        self, _: pb.GetResourcesRequest, ctx: Context
    ) -> pb.GetResourcesResponse:
        """Return the node's levels, as in telemetry."""
        del ctx
        return state.resources(self._node_id, self._status.levels())

    async def get_peers(self, _: pb.GetPeersRequest, ctx: Context) -> pb.GetPeersResponse:
        """List the peers."""
        del ctx
        return pb.GetPeersResponse(peers=state.peers(self._peers))

    def _caller(self, model: str | None, ctx: Context) -> tuple[str, str, str]:
        """Return the model, the request's id and the client for the requests of this caller."""
        return model or self._default_model, request_id(ctx), client_of()

    def _requests(self, asked: _Generation, ctx: Context) -> list[InferenceRequest]:
        caller = self._caller(asked.model, ctx)
        if isinstance(asked, ChatRequest):
            return conversion.chat_requests(asked, *caller)
        return conversion.completion_requests(asked, *caller)

    def _admission(self, ctx: Context) -> Admit:
        """Return what admits requests for the owner of the current call."""
        scope = SCOPE.get()
        owner, route = owner_of(scope), method_of(ctx)

        @contextmanager
        def admit(wanted: InferenceRequest) -> Iterator[Answer]:
            timed = replace(wanted, deadline_seconds=deadline_seconds(ctx))
            with self._router.admit(with_origin(timed, scope, route), owner) as answer:
                try:
                    yield answer
                finally:
                    if is_out_of_time(ctx):  # its caller left because the deadline had passed
                        answer.expire()

        return admit
