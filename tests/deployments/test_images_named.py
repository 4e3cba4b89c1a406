"""Every image that is run is named with a version: in Kubernetes and in compose."""

import re
import tomllib
from typing import Any

import pytest
import yaml

from tests.deployments.dockerfile import ROOT
from tests.deployments.manifests import VARIANTS, containers, pods, render

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
NAMED = re.compile(r"[^:@\s]+(/[^:@\s]+)*(:[\w][\w.-]*|@sha256:[0-9a-f]{64})")


def images(overlay: str) -> dict[str, str]:
    """Give the image of each container of an overlay, its jobs included."""
    return {
        f"{pod['metadata']['labels']['app.kubernetes.io/component']}/{name}": container["image"]
        for pod in pods(render(overlay))
        for name, container in containers(pod).items()
    }


@pytest.mark.parametrize("overlay", VARIANTS)
def test_no_rendered_image_is_without_tag_or_digest(overlay: str) -> None:
    """Each image has a tag other than latest, or a digest; ours have the project's version."""
    for name, image in images(overlay).items():
        assert NAMED.fullmatch(image), f"{name}: {image}"
        assert not image.endswith(":latest"), name
        if image.startswith("distributed-llm-"):
            assert image.endswith(f":{VERSION}"), name


@pytest.mark.parametrize("file", ["compose.yaml", "local.yaml"])
def test_no_image_of_compose_is_without_version(file: str) -> None:
    """The images that compose pulls are named with their versions."""
    services: dict[str, Any] = yaml.safe_load((ROOT / "deployments" / file).read_text())["services"]
    for name, service in services.items():
        if "build" not in service:
            assert NAMED.fullmatch(service["image"]), name


def test_objects_of_prometheus_name_their_images() -> None:
    """So do the objects of Prometheus."""
    text = (ROOT / "deployments/prometheus/prometheus-k8s.yaml").read_text()
    found = re.findall(r"^ +image: (\S+)$", text, re.MULTILINE)
    assert found
    assert all(NAMED.fullmatch(image) for image in found)
