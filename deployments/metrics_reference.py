"""Write the reference page of the metrics: `python -m deployments.metrics_reference`."""

import sys
from collections.abc import Iterator

from exporter.metrics.catalogue.families import FAMILIES
from exporter.metrics.catalogue.family import PREFIX, Family

_HEAD = f"""# Metrics

Every family that the exporter serves, written by `just docs` from
`exporter/metrics/catalogue/`. Names begin with `{PREFIX}`. A counter whose name has no `_total`
is exposed with it. Series of a node carry `node_id`, those of a model `model_id` as well. Counters
with a closed set of label values start at 0. Gauges leave with the node or
the model that they describe.
"""


def write_reference() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *_tables()])


def _tables() -> Iterator[str]:
    topic = ""
    for family in FAMILIES:
        if (own := family.name.partition("_")[0]) != topic:
            topic = own
            yield f"## {topic}\n"
            yield "| name | type | labels | meaning |\n|---|---|---|---|"
        yield _row(family)
        if family is FAMILIES[-1] or _topic_after(family) != topic:
            yield ""


def _topic_after(family: Family) -> str:
    following = FAMILIES[FAMILIES.index(family) + 1]
    return following.name.partition("_")[0]


def _row(family: Family) -> str:
    labels = ", ".join(_label(family, label) for label in family.labels)
    meaning = family.help
    if family.buckets:
        meaning += " Buckets: " + " ".join(f"{bound:g}" for bound in family.buckets) + "."
    return f"| `{family.name}` | {family.kind} | {labels} | {meaning} |"


def _label(family: Family, label: str) -> str:
    values = family.vocabulary.get(label)
    return f"{label} ({', '.join(values)})" if values else label


if __name__ == "__main__":
    sys.stdout.write(write_reference())
