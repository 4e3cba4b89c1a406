"""The page at `/` for trying out the node."""

from typing import Final

from quart import Response, abort, request
from quart_trio import QuartTrio

from shared.runtime.http.page_files import PAGE_HEADERS, read_page

_FILES: Final = read_page("node.api.pages")
PAGE_PATHS: Final = frozenset(_FILES)


def add_page(app: QuartTrio) -> None:
    """Add the routes of the page and its parts, at `PAGE_PATHS`."""

    async def page(name: str = "") -> Response:
        del name  # one route for all parts, because each route has its own series
        if request.path not in _FILES:
            abort(404)
        file = _FILES[request.path]
        headers = dict(PAGE_HEADERS)
        response = Response(file.content, content_type=file.content_type, headers=headers)
        response.set_etag(file.tag)
        await response.make_conditional(request)
        return response

    for rule in ("/", "/pages/<name>"):
        app.add_url_rule(rule, page.__name__, page, methods=["GET"])
