"""The files of a page: static and without secrets, so they need no credentials.

Node and exporter each serve a page at `/` and its parts below `/pages/`;
`shared/runtime/http/pages` holds the parts that both have.
"""

import hashlib
import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

PAGE_HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # Requested each time, and answered 304 while unchanged, so that a new version never gets
        # the page of an old one.
        "Cache-Control": "no-cache",
        # The browser must not submit forms: if the script does not run, a typed secret stays in
        # the page.
        "Content-Security-Policy": (
            "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
)
_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_INDEX: Final = "index.html"
_COMMON: Final = f"{__package__}.pages"
_TAG_LETTERS: Final = 32


@dataclass(frozen=True)
class PageFile:
    """One file of a page."""

    content: bytes
    content_type: str

    @property
    def tag(self) -> str:
        """Its entity tag, without quotes: changes with the content."""
        return hashlib.sha256(self.content).hexdigest()[:_TAG_LETTERS]


def read_page(package: str) -> Mapping[str, PageFile]:
    """Return the files of a package's page and the common ones, by path; read once.

    Args:
        package: The package whose directory holds the files, `index.html` among them.
    """
    directories = map(importlib.resources.files, (_COMMON, package))
    return {
        _path(file.name): PageFile(file.read_bytes(), _TYPES[_suffix(file.name)])
        for directory in directories
        for file in directory.iterdir()
        if _suffix(file.name) in _TYPES
    }


def _path(name: str) -> str:
    return "/" if name == _INDEX else f"/pages/{name}"


def _suffix(name: str) -> str:
    return name.rpartition(".")[2]
