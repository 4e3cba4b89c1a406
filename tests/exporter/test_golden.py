"""Generated files match the catalogue."""

from pathlib import Path

from deployments.metrics_reference import write_reference
from tests.exporter.golden import GOLDEN, exposition

REFERENCE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_exposition_is_as_recorded() -> None:
    """A changed name, label, bucket or rule appears in the golden file (`just golden`)."""
    assert exposition() == GOLDEN.read_text()


def test_reference_page_is_current() -> None:
    """docs/metrics.md matches the catalogue (`just docs`)."""
    assert write_reference() == REFERENCE.read_text()
