"""The route that sorts documents by how well they answer a query; each document is one request."""

from quart import Response
from quart_trio import QuartTrio

from node.api import conversion
from node.api.http.body import read_body
from node.api.http.front import Front, json_response
from node.api.request_id import read_whole
from node.api.rerank_schema import Document, Ranked, Ranking, RerankRequest, RerankUsage
from node.errors import InvalidRequestError
from node.requests.answer import Answer


def add_rerank(app: QuartTrio, front: Front) -> None:
    """Add the route to the application."""

    async def rerank() -> Response:
        asked = await read_body(RerankRequest)
        wanted = conversion.rank_requests(asked, *front.caller(asked.model))
        ranked: list[Ranked] = []
        tokens = 0

        async def read(number: int, answer: Answer) -> None:
            nonlocal tokens
            _, ending = await read_whole(answer)
            tokens += ending.prompt_tokens
            ranked.append(Ranked(number, _score(answer), _shown(asked, number)))

        await front.run(wanted, read)
        ranked.sort(key=lambda one: (-one.relevance_score, one.index))
        usage = RerankUsage(tokens, tokens)
        return json_response(Ranking(wanted[0].model_id, ranked[: asked.top_n], usage))

    app.add_url_rule("/v1/rerank", rerank.__name__, rerank, methods=["POST"])


def _score(answer: Answer) -> float:
    if len(answer.vector) != 1:  # the vector of an embedding model
        message = f"{answer.request.model_id} does not rerank: name a reranking model"
        raise InvalidRequestError(message, parameter="model")
    return answer.vector[0]


def _shown(asked: RerankRequest, number: int) -> Document | None:
    return Document(asked.texts()[number]) if asked.return_documents else None
