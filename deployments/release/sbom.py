"""Write software bills of materials in CycloneDX's format: `just sbom`.

CycloneDX's own tool lists what a pinned requirement set names, with the hashes of every file. The
licences and the dependencies among the libraries are added from the metadata of this environment.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any, Final

from cyclonedx.schema import SchemaVersion
from cyclonedx.spdx import fixup_id, is_expression
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deployments.release.licenses import read_licenses
from deployments.release.pins import ROOT, version

SETS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "distributed-llm": ("runtime", ("node", "exporter", "traces", "top")),
    "distributed-llm-node": ("node", ("node",)),
    "distributed-llm-exporter": ("exporter", ("exporter", "traces")),
}
"""The requirement set, and the extras of the project, by the name of what holds them: the wheel
with both, and either image."""


def write_sboms(directory: Path) -> list[Path]:
    """Write a bill for the wheel and for each image; return the files."""
    files = []
    for name in SETS:
        files.append(directory / f"{name}-{version()}.cdx.json")
        files[-1].write_text(write_sbom(name))
    return files


def write_sbom(name: str) -> str:
    """Return the bill of one of `SETS` as JSON.

    Raises:
        ValueError: It does not follow CycloneDX's schema.
    """
    requirements, extras = SETS[name]
    bill = _listed(requirements)
    bill["metadata"]["component"]["name"] = name
    licenses = read_licenses()
    for component in bill["components"]:
        del component["description"]  # the requirement with all its hashes, which are below it
        component["bom-ref"] = component["purl"]
        if text := licenses.get(component["name"]):
            component["licenses"] = _choices(text)
    bill["dependencies"] = _dependencies(bill, extras)
    text = json.dumps(bill, indent=2, sort_keys=True) + "\n"
    if (error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)) is not None:
        raise ValueError(f"{name}: {error}")
    return text


def _listed(requirements: str) -> dict[str, Any]:
    command = [
        *(sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements"),
        *(
            "--pyproject",
            "pyproject.toml",
            "--output-reproducible",
            "--no-validate",
            "--spec-version",
            "1.6",
        ),
        f"requirements/{requirements}.txt",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    bill: dict[str, Any] = json.loads(done.stdout)
    return bill


def _choices(text: str) -> list[dict[str, Any]]:
    """Return a declared licence as the schema has it: an expression, or names with `OR` between."""
    if is_expression(text) and not fixup_id(text):
        return [{"expression": text}]
    return [
        {"license": {"id": known} if (known := fixup_id(part)) else {"name": part}}
        for part in text.split("; ")
    ]


def _dependencies(bill: Mapping[str, Any], extras: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return what each component needs directly, the project's own first."""
    references: dict[str, list[str]] = {}
    for component in bill["components"]:
        references.setdefault(component["name"], []).append(component["bom-ref"])
    root = bill["metadata"]["component"]["bom-ref"]
    needed = [(root, _required("distributed-llm", extras))]
    needed += [(each, _required(name)) for name, found in references.items() for each in found]
    return [
        {
            "ref": reference,
            "dependsOn": sorted(each for name in names for each in references.get(name, ())),
        }
        for reference, names in needed
    ]


def _required(name: str, extras: tuple[str, ...] = ()) -> set[str]:
    """Return the distributions that an installed one requires, with any of its extras or none."""
    try:
        written = [Requirement(each) for each in requires(name) or ()]
    except PackageNotFoundError:  # pinned for another platform
        return set()
    return {
        canonicalize_name(each.name)
        for each in written
        if each.marker is None or any(each.marker.evaluate({"extra": e}) for e in ("", *extras))
    }


def main() -> None:
    """Write the bills to `dist/` and name them."""
    directory = ROOT / "dist"
    directory.mkdir(exist_ok=True)
    for file in write_sboms(directory):
        print(file.relative_to(ROOT))


if __name__ == "__main__":
    main()
