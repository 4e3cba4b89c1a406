"""Renders the kustomizations and finds things in what comes out."""

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deployments.dockerfile import ROOT

DIRECTORY: Final = ROOT / "deployments" / "kubernetes"
OVERLAYS: Final = ("local", "production", "daemonset")
COMPONENTS: Final = tuple(sorted(file.name for file in (DIRECTORY / "components").iterdir()))
_NEEDED: Final = {"peer-tls": "tls+peer-tls"}
VARIANTS: Final = (
    *OVERLAYS,
    *(f"local+{_NEEDED.get(each, each)}" for each in COMPONENTS if each != "mesh"),
)
"""Every overlay, and the smallest one with each component that it does not have."""
NODE: Final = {"app.kubernetes.io/name": "distributed-llm", "app.kubernetes.io/component": "node"}

Manifest = dict[str, Any]


@functools.cache
def render(variant: str) -> list[Manifest]:
    """Render an overlay, with the components that follow it: `local+tls`."""
    overlay, *components = variant.split("+")
    if not components:
        return _kustomize(DIRECTORY / "overlays" / overlay)
    with tempfile.TemporaryDirectory() as made:
        relative = os.path.relpath(DIRECTORY, Path(made).resolve())
        wanted = {
            "resources": [f"{relative}/overlays/{overlay}"],
            "components": [f"{relative}/components/{component}" for component in components],
        }
        (Path(made) / "kustomization.yaml").write_text(yaml.safe_dump(wanted))
        return _kustomize(Path(made).resolve())


def _kustomize(directory: Path) -> list[Manifest]:
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize"]
    elif shutil.which("kustomize"):
        command = ["kustomize", "build"]
    else:
        pytest.skip("neither kubectl nor kustomize is here")
    done = subprocess.run([*command, str(directory)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    """Give the objects of some kinds."""
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """Give the one object of a kind and name."""
    (found,) = [m for m in of_kind(manifests, kind) if m["metadata"]["name"] == name]
    return found


def workload(manifests: list[Manifest]) -> Manifest:
    """Give what runs the nodes."""
    (found,) = of_kind(manifests, "StatefulSet", "DaemonSet")
    return found


def pods(manifests: list[Manifest]) -> list[Manifest]:
    """Give the pod template of everything that runs."""
    return [
        manifest["spec"]["template"]
        for manifest in of_kind(manifests, "StatefulSet", "DaemonSet", "Job")
    ]


def containers(pod: Manifest) -> dict[str, Manifest]:
    """Give a pod's containers by name, its sidecars too."""
    spec = pod["spec"]
    return {
        container["name"]: container
        for container in [*spec.get("initContainers", ()), *spec["containers"]]
    }


def selects(selector: Manifest, pod: Manifest) -> bool:
    """Whether a label selector, of the kind that ours are, means a pod."""
    assert set(selector) <= {"matchLabels"}
    wanted: dict[str, str] = selector.get("matchLabels", {})
    labels: dict[str, str] = pod["metadata"]["labels"]
    return wanted.items() <= labels.items()
