"""What a release consists of, and what it says of itself."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deployments.release.__main__ import build, write_checksums
from deployments.release.licenses import ALLOWED, read_licenses, refused, write_page
from deployments.release.pins import ROOT, pinned, version
from deployments.release.sbom import SETS, write_sbom
from tests.processes import wait_for

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="other libraries are installed")


def test_version_is_the_same_everywhere() -> None:
    """Files that cannot read `pyproject.toml` name its version."""
    deployments = ROOT / "deployments"
    named = {
        deployments / "compose.yaml": r"image: distributed-llm-\w+:(\S+)",
        deployments / "kubernetes/base/kustomization.yaml": r"newTag: (\S+)",
        deployments / "kubernetes/components/model-volume/kustomization.yaml": r"newTag: (\S+)",
        ROOT / "README.md": r"Version (\d\S+),",
        ROOT / "CHANGELOG.md": r"(?m)\A(?:.*\n)+?## (\S+)",
    }
    for file, pattern in named.items():
        assert set(re.findall(pattern, file.read_text())) == {version()}, file


@on_linux
def test_page_of_licences_is_current() -> None:
    """It shows what the pinned libraries declare (`just docs`)."""
    assert write_page() == (ROOT / "docs" / "licenses.md").read_text()


def test_shipped_licences_are_allowed() -> None:
    """Every library in an image or beside the wheel has a licence that permits it."""
    shipped = {name: text for name, text in read_licenses().items() if name in pinned("runtime")}
    assert shipped
    assert refused(shipped) == {}


@pytest.mark.parametrize("text", ["GPL-3.0", "MIT AND LGPL-2.1-only", "UNKNOWN", ""])
def test_other_licences_are_refused(text: str) -> None:
    """A licence that is not listed is refused, alone or beside one that is; so is none."""
    assert refused({"library": text}) == {"library": text}


@pytest.mark.parametrize("text", ["(MIT OR Apache-2.0) AND BSD-3-Clause", *sorted(ALLOWED)])
def test_listed_licences_are_allowed(text: str) -> None:
    """An expression of listed licences is allowed."""
    assert refused({"library": text}) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_bill_of_materials_is_valid_and_complete(name: str) -> None:
    """It follows the schema and has every pin with hashes, licence and what it needs."""
    text = write_sbom(name)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    components = {each["name"]: each for each in bill["components"]}
    assert components.keys() == set(pinned(SETS[name][0]))
    licensed = read_licenses()
    for component in bill["components"]:
        (files,) = component["externalReferences"]
        assert files["hashes"]
        assert ("licenses" in component) is (component["name"] in licensed)
    needs = {each["ref"]: each["dependsOn"] for each in bill["dependencies"]}
    assert components["trio"]["purl"] in needs["root-component"]
    reached, waiting = set(), {"root-component"}
    while waiting:
        reached |= waiting
        waiting = {ref for each in waiting for ref in needs[each]} - reached
    left_over = {each["purl"] for each in components.values()} - reached
    assert not {each for each in left_over if each.split("/")[1].split("@")[0] in licensed}


@pytest.mark.slow
def test_wheel_installs_and_its_commands_run(tmp_path: Path) -> None:
    """In an environment with nothing but the pinned set, the agent serves the demo model."""
    dist, environment = tmp_path / "dist", tmp_path / "venv"
    build(dist, "1700000000")
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    assert version() in wheel.name
    assert version() in sdist.name
    with zipfile.ZipFile(wheel) as files:
        assert {file.date_time[:3] for file in files.infolist()} == {(2023, 11, 14)}
    write_checksums(dist)
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=dist, check=True
    )
    assert checked.returncode == 0

    install = ["uv", "pip", "install", "--quiet", "--python", str(environment / "bin/python")]
    pins = [str(ROOT / "requirements/runtime.txt")]
    for command in (
        ["uv", "venv", "--quiet", "--python", sys.executable, str(environment)],
        [*install, "--require-hashes", "--requirement", *pins],
        [*install, "--no-deps", str(wheel)],
    ):
        subprocess.run(command, check=True, timeout=300)
    for name in ("agent", "distributed-llm-node", "distributed-llm-exporter"):
        shown = subprocess.run(
            [environment / "bin" / name, "--help"], capture_output=True, text=True, check=True
        )
        assert shown.stdout.startswith(f"Usage: {name} ")
    log = tmp_path / "agent.log"
    flags = ["--api-port=0", "--mesh-port=0", "--metrics-port=0", "--threads=1"]
    places = [f"--runtime-dir={tmp_path / 'run'}", f"--state-dir={tmp_path / 'state'}"]
    with log.open("w") as output:
        agent = subprocess.Popen(
            [environment / "bin" / "agent", *flags, *places],
            stdout=output,
            stderr=output,
            cwd=tmp_path,
        )
    try:
        wait_for(lambda: agent.poll() is not None or "curl" in log.read_text(), 60)
    finally:
        agent.terminate()
    assert agent.wait(60) == 0, log.read_text()
