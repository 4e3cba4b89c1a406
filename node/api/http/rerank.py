"""The route that sorts documents by how well they answer a query; each document is one request."""

from quart import Response
from quart_trio import QuartTrio

from node.api import conversion
from node.api.answers import read_scores
from node.api.http.body import read_body
from node.api.http.front import Front, json_response
from node.api.rerank_schema import Ranking, RerankRequest
from node.api.schema import PromptUsage


def add_rerank(app: QuartTrio, front: Front) -> None:
    """Add the route to the application."""

    async def rerank() -> Response:
        asked = await read_body(RerankRequest)
        wanted = conversion.rank_requests(asked, *front.caller(asked.model))
        scores, tokens = await read_scores(wanted, front.admission())
        usage = PromptUsage(tokens, tokens)
        return json_response(Ranking(wanted[0].model_id, asked.ranked(scores), usage))

    app.add_url_rule("/v1/rerank", rerank.__name__, rerank, methods=["POST"])
