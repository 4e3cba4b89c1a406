"""A headless browser for the tests of the pages."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Final

import pytest
from playwright.sync_api import Browser, ViewportSize, expect, sync_playwright

CHROMIUM: Final = shutil.which("chromium")
WIDE: Final[ViewportSize] = {"width": 1280, "height": 860}
NARROW: Final[ViewportSize] = {"width": 320, "height": 640}
NEEDS_CHROMIUM: Final = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: chromium)"),
]


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Yield a browser; each visit has its own profile."""
    expect.set_options(timeout=60_000)  # other tests may keep the machine busy
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
