"""The model of a whole node in `tests.whole_node` matches the real node."""

from typing import Any

from node.api.http.app import build_app
from node.api.http.cluster import add_cluster
from tests.whole_node import ROUTES, UNKNOWN


def test_routes_are_those_of_the_node() -> None:
    """The routes of the model are the routes of the API."""
    unasked: Any = None  # only requests use the arguments
    app = build_app(unasked, unasked, unasked, "demo")
    add_cluster(app, unasked, unasked)
    served = {
        (rule.rule, method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert served == ROUTES.keys() - {UNKNOWN}
