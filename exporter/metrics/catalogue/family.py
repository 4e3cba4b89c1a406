"""One metric family, and the short forms that declare it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

PREFIX: Final = "distributed_llm_"
OTHER: Final = "other"
"""The label value that replaces those beyond a family's budget."""

Scope = Literal["node", "model", "exporter"]

NODE: Final = ("node_id",)
MODEL: Final = ("node_id", "model_id")
NETWORK_BUCKETS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
CHECK_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5)


@dataclass(frozen=True, eq=False)
class Family:
    """One metric family.

    `vocabulary` lists the values of labels that are closed sets; if all labels except the node's
    and the model's are closed, the series start at 0. A gauge is a level and ends with its node's
    session; `derived` ones are computed at the scrape instead. A `total` is a counter that events
    carry as the session's running total.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    vocabulary: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    derived: bool = False
    total: bool = False

    @property
    def scope(self) -> Scope:
        """What owns its series."""
        if self.labels[:2] == ("node_id", "model_id"):
            return "model"
        return "node" if self.labels[:1] == ("node_id",) else "exporter"

    @property
    def open_labels(self) -> tuple[str, ...]:
        """Labels beyond the owner's that can take any value."""
        owner = {"node": 1, "model": 2, "exporter": 0}[self.scope]
        return tuple(label for label in self.labels[owner:] if label not in self.vocabulary)

    @property
    def grows(self) -> bool:
        """Whether the number of its series depends on more than nodes and models."""
        return self.scope != "exporter" and bool(self.open_labels)


def counter(
    name: str, text: str, *labels: str, total: bool = False, **vocabulary: tuple[str, ...]
) -> Family:
    """Declare a counter; `vocabulary` gives the values of its closed labels."""
    return Family(name, "counter", text, labels, vocabulary=vocabulary, total=total)


def gauge(
    name: str, text: str, *labels: str, derived: bool = False, **vocabulary: tuple[str, ...]
) -> Family:
    """Declare a level."""
    return Family(name, "gauge", text, labels, vocabulary=vocabulary, derived=derived)


def histogram(
    name: str, buckets: tuple[float, ...], text: str, *labels: str, **vocabulary: tuple[str, ...]
) -> Family:
    """Declare a histogram with these upper bounds."""
    return Family(name, "histogram", text, labels, buckets, vocabulary)
