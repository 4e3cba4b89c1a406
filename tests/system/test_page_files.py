"""The page's files as the node serves them; tests/system/test_page.py opens them in a browser."""

import re
from pathlib import Path

import httpx

from node.api.pages import page as pages
from shared.runtime.http import pages as common
from tests.processes import Running


def test_page_is_static_and_strict(shared_node: Running) -> None:
    """Each part has its type and strict headers, and nothing is inline."""
    for path in pages.PAGE_PATHS:
        answer = httpx.get(shared_node.url + path)
        assert answer.status_code == 200
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        known = {"If-None-Match": answer.headers["ETag"]}
        assert httpx.get(shared_node.url + path, headers=known).status_code == 304
    html = httpx.get(shared_node.url).text
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)|https?:", html)
    assert httpx.get(f"{shared_node.url}/pages/page.py").status_code == 404


def test_every_part_of_the_page_is_served() -> None:
    """Every file of the page and of the common parts is served, and no others."""
    directories = (Path(pages.__file__).parent, Path(common.__file__).parent)
    files = {file.name for each in directories for file in each.iterdir() if file.is_file()}
    served = {path.removeprefix("/pages/") for path in pages.PAGE_PATHS} - {"/"} | {"index.html"}
    assert files - {"__init__.py", "page.py"} == served
