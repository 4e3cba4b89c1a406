"""The node that series are counted for is the one that there is."""

from typing import Any

from node.api.http.app import build_app
from node.api.http.cluster import add_cluster
from tests.whole_node import ROUTES, UNKNOWN


def test_routes_are_those_of_the_node() -> None:
    """Each route that the API serves is told of, and no other."""
    unasked: Any = None  # what is given here is asked by requests only
    app = build_app(unasked, unasked, unasked, "demo")
    add_cluster(app, unasked, unasked)
    served = {
        (rule.rule, method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert served == ROUTES.keys() - {UNKNOWN}
