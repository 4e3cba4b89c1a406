"""The catalogue has every promised metric, well named and described."""

import re
from collections.abc import Mapping

import pytest

from exporter.metrics.catalogue.families import FAMILIES

CONTRACT: Mapping[str, tuple[str, set[str]]] = {
    "node_status": ("gauge", {"node_id"}),
    "node_uptime_seconds": ("gauge", {"node_id"}),
    "node_resources": ("gauge", {"node_id", "resource_type"}),
    "network_connections": ("gauge", {"node_id", "state"}),
    "network_messages_total": ("counter", {"node_id", "direction", "message_type"}),
    "network_latency_seconds": ("histogram", {"node_id", "target_node", "operation"}),
    "inference_requests_total": ("counter", {"node_id", "model_id", "status"}),
    "inference_latency_seconds": ("histogram", {"node_id", "model_id", "status"}),
    "inference_tokens_generated": ("counter", {"node_id", "model_id"}),
    "models_loaded": ("gauge", {"node_id"}),
    "model_size_bytes": ("gauge", {"node_id", "model_id"}),
    "layers_allocated": ("gauge", {"node_id", "model_id"}),
    "system_memory_usage_bytes": ("gauge", {"node_id", "memory_type"}),
    "system_cpu_usage_percent": ("gauge", {"node_id", "scope"}),
    "system_goroutines": ("gauge", {"node_id"}),
    "health_check_total": ("counter", {"check", "status"}),
    "health_check_latency_seconds": ("histogram", {"check"}),
}
"""The metrics of the monitoring document, with their required labels."""
VOCABULARIES = {
    ("node_resources", "resource_type"): "cpu_cores memory_bytes max_layers used_layers",
    ("inference_requests_total", "status"): "ok error timeout cancelled rejected",
    ("inference_latency_seconds", "status"): "ok error timeout cancelled rejected",
    ("system_memory_usage_bytes", "memory_type"): "rss engine_rss available total swap",
    ("system_cpu_usage_percent", "scope"): "node engine host",
    ("health_check_total", "status"): "ok failed",
    ("inference_finish_total", "reason"): "stop length cancelled error",
    ("inference_tokens_discarded_total", "reason"): "cancelled timeout error",
    ("inference_slots", "state"): "busy total",
    ("node_state", "state"): "offline online busy draining unknown",
    ("model_unloads_total", "reason"): "requested idle crashed stalled",
    ("engine_restarts_total", "reason"): "crashed stalled",
    ("runtime_worker_threads", "state"): "busy total",
}
BY_NAME = {family.name: family for family in FAMILIES}


@pytest.mark.parametrize("name", CONTRACT)
def test_promised_metric_is_there(name: str) -> None:
    """A promised metric keeps its type and its labels."""
    family = BY_NAME[name]
    assert (family.kind, set(family.labels)) == CONTRACT[name]


@pytest.mark.parametrize(("name", "label"), VOCABULARIES)
def test_vocabulary_is_as_promised(name: str, label: str) -> None:
    """A closed label has the values that dashboards and alerts use."""
    assert BY_NAME[name].vocabulary[label] == tuple(VOCABULARIES[name, label].split())


def test_names_are_unique() -> None:
    """Names are unique, even after Prometheus appends its suffixes."""
    written = [family.name.removesuffix("_total") for family in FAMILIES]
    assert len(set(written)) == len(FAMILIES)
    endings = ("_bucket", "_count", "_sum", "_created", "_total")
    assert not {name + ending for name in written for ending in endings} & set(written)


def test_name_is_valid() -> None:
    """Names and labels are valid, in lower case, and no label is reserved."""
    for family in FAMILIES:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name), family.name
        for label in family.labels:
            assert re.fullmatch(r"[a-z][a-z0-9_]*", label)
            assert label not in ("le", "quantile", "job", "instance")
        assert len(set(family.labels)) == len(family.labels), family.name


def test_name_follows_its_type() -> None:
    """Only counters end in `_total`; units are Prometheus's base units."""
    for family in FAMILIES:
        assert not family.name.endswith("_total") or family.kind == "counter", family.name
        exempt = family.name in CONTRACT
        assert family.kind != "counter" or family.name.endswith("_total") or exempt, family.name
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb)(_|$)", family.name), family.name


def test_help_is_one_sentence() -> None:
    """The help of each family is one sentence."""
    for family in FAMILIES:
        assert re.fullmatch(r"[A-Z0-9].*\.", family.help), family.name


def test_series_have_an_owner() -> None:
    """The first label is the node, and the second is the model if there is one."""
    for family in FAMILIES:
        if "node_id" in family.labels:
            assert family.labels[0] == "node_id"
        if "model_id" in family.labels:
            assert family.labels[:2] == ("node_id", "model_id")


def test_vocabulary_belongs_to_labels() -> None:
    """Each closed label exists in its family, and its values are unique."""
    for family in FAMILIES:
        assert set(family.vocabulary) <= set(family.labels), family.name
        for values in family.vocabulary.values():
            assert len(set(values)) == len(values) > 0


def test_buckets_increase_strictly() -> None:
    """Histograms have strictly increasing bounds; other families have none."""
    for family in FAMILIES:
        assert (family.kind == "histogram") == bool(family.buckets), family.name
        assert list(family.buckets) == sorted(set(family.buckets)), family.name


def test_only_levels_are_computed_and_only_counters_are_totals() -> None:
    """Only gauges are computed at the scrape, and only counters are totals."""
    for family in FAMILIES:
        assert not family.derived or family.kind == "gauge", family.name
        assert not family.total or family.kind == "counter", family.name
