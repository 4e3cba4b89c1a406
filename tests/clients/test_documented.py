"""docs/clients.md names the versions that are tested."""

import json
import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PINS: Final = ("dev", "clients", "load-clients")


def pinned_versions() -> set[str]:
    """Return the pinned versions, without their packages."""
    pinned = "".join((ROOT / f"requirements/{name}.txt").read_text() for name in PINS)
    package = json.loads((ROOT / "tests/clients/javascript/package.json").read_text())
    return {*re.findall(r"==(\S+)", pinned), *package["dependencies"].values()}


def test_documented_versions_are_the_tested_ones() -> None:
    """Each version in the table is pinned."""
    page = (ROOT / "docs/clients.md").read_text()
    table = re.findall(r"^\|[^|]+\| ([\d., ]+) \|", page, re.MULTILINE)
    documented = {version for cell in table for version in cell.split(", ")}
    assert len(documented) > len(table)
    assert documented <= pinned_versions()


def test_lock_file_of_the_clients_for_node_has_no_addresses() -> None:
    """Packages are pinned by hash, from any registry; npm may write addresses again."""
    lock = (ROOT / "tests/clients/javascript/package-lock.json").read_text()
    assert '"integrity": "sha512-' in lock
    assert "://" not in lock
