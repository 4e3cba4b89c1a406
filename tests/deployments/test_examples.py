"""The Kubernetes examples fit what the overlays render: names, ports, selectors and metrics."""

import re
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deployments.manifests import DIRECTORY, containers, named, of_kind, render, workload
from tests.monitoring.vocabulary import metrics

EXAMPLES = sorted((DIRECTORY / "examples").glob("*.yaml"))
BUILT_IN = {"Ingress", "Service", "ConfigMap", "NetworkPolicy"}
"""The other kinds have schemas that are installed with them."""


def objects() -> list[dict[str, Any]]:
    """Give the objects of all examples."""
    return [each for file in EXAMPLES for each in yaml.safe_load_all(file.read_text())]


def services() -> dict[str, dict[str, Any]]:
    """Give the Services that there are, by name."""
    found = of_kind([*render("production"), *objects()], "Service")
    return {service["metadata"]["name"]: service for service in found}


@pytest.mark.parametrize("version", ["1.35", "1.36", "1.37"])
def test_examples_are_valid(version: str) -> None:
    """The objects of Kubernetes' own kinds have no unknown field."""
    for each in objects():
        assert each["metadata"]["namespace"] == "distributed-llm"
        if each["kind"] in BUILT_IN:
            kubernetes_validate.validate(each, version, strict=True)


def test_routes_lead_to_services_that_there_are() -> None:
    """Every backend of a route or an Ingress is a Service with that port, or the pool."""
    text = "\n".join(file.read_text() for file in EXAMPLES)
    ingress = re.findall(r"service: \{name: (\S+), port: \{number: (\d+)\}\}", text)
    routes = re.findall(r"- name: (distributed-llm-\S+)\n +port: (\d+)\n", text)
    assert len(ingress) == len(routes) == 2
    for name, port in (*ingress, *routes):
        assert int(port) in [each["port"] for each in services()[name]["spec"]["ports"]]


def test_pool_is_of_the_nodes_and_its_picker_reads_our_metrics() -> None:
    """The pool selects the node's pods and API port; the picker's names are exported."""
    pod = workload(render("production"))["spec"]["template"]
    pool = named(objects(), "InferencePool", "distributed-llm")["spec"]
    assert pool["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    ports = [port["containerPort"] for each in containers(pod).values() for port in each["ports"]]
    assert pool["targetPorts"][0]["number"] in ports
    picker = named(objects(), "ConfigMap", "distributed-llm-epp")["data"]["config.yaml"]
    for name, label, value in re.findall(r"Spec: (\w+)(?:\{(\w+)=(\w+)\})?", picker):
        assert name in metrics()
        if label:
            assert value in metrics()[name].vocabulary[label]
