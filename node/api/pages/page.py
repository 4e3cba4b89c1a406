"""The page at `/` for trying out the node: static files without secrets, so they need no key."""

import hashlib
import importlib.resources
from typing import Final

from quart import Response, abort, request
from quart_trio import QuartTrio

_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/pages/page.css": ("page.css", "text/css; charset=utf-8"),
    "/pages/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/pages/answer.js": ("answer.js", "text/javascript; charset=utf-8"),
    "/pages/api.js": ("api.js", "text/javascript; charset=utf-8"),
    "/pages/meter.js": ("meter.js", "text/javascript; charset=utf-8"),
    "/pages/icon.svg": ("icon.svg", "image/svg+xml"),
}
PAGE_PATHS: Final = frozenset(_FILES)

_HEADERS: Final = {
    # Requested each time, and answered 304 while unchanged, so that a new version of the node never
    # gets the page of an old one.
    "Cache-Control": "no-cache",
    # The browser must not submit forms: if the script does not run, a typed key stays in the page.
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def add_page(app: QuartTrio) -> None:
    """Add the routes of the page and its parts, at `PAGE_PATHS`; the files are read once."""
    directory = importlib.resources.files(__package__)
    contents = {path: (directory / name).read_bytes() for path, (name, _) in _FILES.items()}

    async def page(name: str = "") -> Response:
        del name  # one route for all parts, because each route has its own series
        if request.path not in contents:
            abort(404)
        content = contents[request.path]
        response = Response(content, content_type=_FILES[request.path][1], headers=_HEADERS)
        response.set_etag(hashlib.sha256(content).hexdigest()[:32])
        await response.make_conditional(request)
        return response

    for rule in ("/", "/pages/<name>"):
        app.add_url_rule(rule, page.__name__, page, methods=["GET"])
