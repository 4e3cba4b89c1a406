"""Every query names only what there is, and what there is is named by some query or page."""

import re
from typing import Final

import pytest

from exporter.metrics.catalogue.families import FAMILIES
from exporter.metrics.catalogue.family import PREFIX, Family
from tests.monitoring.promql import fill_in, read
from tests.monitoring.sources import REPOSITORY, dashboard, panels, queries
from tests.monitoring.vocabulary import exposed_names, labels_of, metrics

UNNAMED: Final[dict[str, str]] = {}
"""Families that no query names, with the reason."""

every_query = pytest.mark.parametrize(
    "query",
    [pytest.param(query, id=f"{at}-{where}") for at, (where, query) in enumerate(queries())],
)


@every_query
def test_query_names_what_there_is(query: str) -> None:
    """Each metric is of the catalogue; each label and value is one that it can have."""
    named = read(fill_in(query))
    known = metrics()
    assert named.metrics or query == "vector(1)"  # the dead-man's switch
    for name, matchers in named.selectors:
        assert name in known, f"{name} is not in the catalogue"
        for matcher in matchers:
            assert matcher.label in known[name].labels, f"{name} has no label {matcher.label}"
            possible = known[name].vocabulary.get(matcher.label)
            if possible is not None:
                assert set(matcher.values) <= set(possible), f"{name} {matcher}"
    assert named.grouped <= labels_of(named, known)


def test_variables_name_what_there_is() -> None:
    """The dashboard's variables are asked of metrics and labels that there are."""
    asked = [v["query"] for v in dashboard()["templating"]["list"] if v["type"] == "query"]
    assert len(asked) == 5
    for query in asked:
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", query)
        assert found, query
        named = read(fill_in(found[1]))
        assert named.metrics <= set(metrics())
        assert found[2] in labels_of(named, metrics())


def test_legends_name_what_there_is() -> None:
    """A legend names only labels that its query's series have."""
    for panel in panels():
        for target in panel.get("targets", ()):
            used = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
            named = read(fill_in(target["expr"]))
            given = named.kept or labels_of(named, metrics())
            assert used <= given, f"{panel['title']}: {target['expr']}"


def test_every_family_is_named_somewhere() -> None:
    """No family is exported that no panel, rule or page makes use of."""
    used = {name for _, query in queries() for name in read(fill_in(query)).metrics}
    unnamed = {
        family.name
        for family in FAMILIES
        if not any(name in used for name, _ in exposed_names(family))
    }
    assert unnamed == set(UNNAMED)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_can_be_looked_at(family: Family) -> None:
    """Every family has a panel: what is only alerted on cannot be looked at."""
    drawn = {
        name
        for panel in panels()
        for target in panel.get("targets", ())
        for name in read(fill_in(target["expr"])).metrics
    }
    in_annotations = {"node_start_time_seconds", "node_ends_total"}
    shown = any(name in drawn for name, _ in exposed_names(family))
    assert shown or family.name in in_annotations, PREFIX + family.name


def test_documented_names_exist() -> None:
    """No page or runbook speaks of a metric that there is not."""
    known = {name.removeprefix(PREFIX) for name in metrics()} | {family.name for family in FAMILIES}
    for page in [
        *(REPOSITORY / "docs" / "runbooks").glob("*.md"),
        REPOSITORY / "docs/monitoring.md",
    ]:
        for name in re.findall(rf"{PREFIX}([a-z_]+[a-z])", page.read_text()):
            assert name in known or any(k.startswith(f"{name}_") for k in known), f"{page}: {name}"
