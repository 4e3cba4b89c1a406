"""The versions of others' images: the same everywhere, and looked up within a year."""

import re
import tomllib
import warnings
from datetime import UTC, date, datetime
from typing import Any

from tests.deployments.dockerfile import ROOT

MONTHS = 12
FILES = ("compose.yaml", "local.yaml", "prometheus/prometheus-k8s.yaml")


def pinned() -> dict[str, dict[str, Any]]:
    """Give version and date of each image."""
    return tomllib.loads((ROOT / "deployments/versions.toml").read_text())


def is_old(checked: date, today: date) -> bool:
    """Return whether a year has passed since a version was looked up."""
    return (today.year - checked.year) * MONTHS + today.month - checked.month >= MONTHS


def test_each_image_has_one_version() -> None:
    """Every file names the version that is written down, and each written one is in use."""
    used = set()
    for file in FILES:
        text = (ROOT / "deployments" / file).read_text()
        for image, version in re.findall(r"image: ((?:prom|grafana)/\w+):(\S+)", text):
            assert version == pinned()[image]["version"], (file, image)
            used.add(image)
    assert used == pinned().keys()


def test_a_year_is_old() -> None:
    """A version is old when a year has passed, and not before."""
    assert not is_old(date(2026, 11, 28), date(2027, 10, 31))
    assert is_old(date(2026, 11, 28), date(2027, 11, 1))


def test_old_versions_are_warned_of() -> None:
    """A version that was looked up a year ago is a warning, because no change of ours caused it."""
    today = datetime.now(UTC).date()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for image, written in pinned().items():
            if is_old(written["checked"], today):
                warnings.warn(f"{image} {written['version']}: look for a newer one", stacklevel=1)
