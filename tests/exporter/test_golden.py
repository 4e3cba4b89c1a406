"""What is derived from the catalogue is current."""

from pathlib import Path

from deployments.metrics_reference import write_reference
from tests.exporter.golden import GOLDEN, exposition

REFERENCE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_exposition_is_as_recorded() -> None:
    """A changed name, label, bucket or rule shows in the golden file (`just golden`)."""
    assert exposition() == GOLDEN.read_text()


def test_reference_page_is_current() -> None:
    """The page of all metrics says what the catalogue says (`just docs`)."""
    assert write_reference() == REFERENCE.read_text()
