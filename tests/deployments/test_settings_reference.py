"""The page of the settings is current."""

from pathlib import Path

from deployments.settings_reference import write_reference

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_page_of_the_settings_is_current() -> None:
    """It shows the settings as the code declares them, on every machine (`just docs`)."""
    assert write_reference() == PAGE.read_text()
