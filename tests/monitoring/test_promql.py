"""The reader of queries that the other tests lean on."""

import pytest

from tests.monitoring.promql import Matcher, fill_in, read


@pytest.mark.parametrize(
    ("query", "metrics"),
    [
        ("up == 0", {"up"}),
        ("sum by (job) (rate(a_total[5m])) / on (job) group_left () b", {"a_total", "b"}),
        ("histogram_quantile(0.9, sum without (x) (rate(h_bucket{le!='1'}[1h:1m] offset 5m)))",
         {"h_bucket"}),
        ("a and on (x) b unless c or vector(1) > bool 2e3", {"a", "b", "c"}),
        ("topk(3, level:metric:sum) # and not this one", {"level:metric:sum"}),
        ('label_replace(a{b="c(d"}, "e", "$1", "b", "(.+)") * Inf', {"a"}),
        ("count(a) by (sum) > -1.5", {"a"}),
    ],
)  # fmt: skip
def test_metrics_are_found(query: str, metrics: set[str]) -> None:
    """Every metric is found, and no function, word, label, range or string is taken for one."""
    assert read(query).metrics == metrics


def test_labels_are_found() -> None:
    """Labels of matchers, of groupings and made ones are told apart."""
    query = 'sum by (a, b) (label_replace(m{c="x", d=~"y|z"}, "e", "$1", "c", "(.+)")) * on (f) n'
    named = read(query)
    assert dict(named.selectors)["m"] == (Matcher("c", "=", "x"), Matcher("d", "=~", "y|z"))
    assert (named.grouped, named.kept, named.made) == ({"a", "b", "f"}, {"a", "b"}, {"e"})
    assert dict(named.selectors)["m"][1].values == ("y", "z")


@pytest.mark.parametrize("query", ['{job="x"}', "a{b}", 'a{b="c" d}'])
def test_what_cannot_be_checked_is_refused(query: str) -> None:
    """A selector without a name, or one that is not understood, is not passed over."""
    with pytest.raises((ValueError, IndexError)):
        read(query)


def test_variables_are_filled_in() -> None:
    """A panel's query is one that Prometheus takes."""
    query = 'rate(a{node_id=~"$node", model_id=~"${model}"}[$__rate_interval])'
    assert fill_in(query) == 'rate(a{node_id=~".*", model_id=~".*"}[1m])'
    assert fill_in('a{node_id="$node"}') == 'a{node_id="node1"}'
