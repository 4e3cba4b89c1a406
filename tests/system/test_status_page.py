"""The exporter's status page in a real browser, with a real node behind it."""

import dataclasses
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from tests.browser import NARROW, NEEDS_CHROMIUM, WIDE, open_browser
from tests.processes import Pair, Running, scrape, value

TOKEN: Final = "a-token-of-an-operator"
pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One headless browser."""
    with open_browser() as browser:
        yield browser


@dataclasses.dataclass
class Visit:
    """An open page, the hosts that it asked and the browser's complaints."""

    page: Page
    hosts: set[str] = dataclasses.field(default_factory=set)
    complaints: list[str] = dataclasses.field(default_factory=list)

    def field(self, name: str) -> str:
        """Return a figure of the node."""
        return self.page.locator(f"[data-field={name}]").inner_text()

    def note_console(self, message: ConsoleMessage) -> None:
        # The browser itself logs each answer of 4xx and each lost connection; those are expected.
        is_complaint = message.type in {"error", "warning"}
        if is_complaint and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)


@contextmanager
def visit(browser: Browser, exporter: Running, **context: Any) -> Iterator[Visit]:
    """Open the page; check at the end that it used no other host and logged no error."""
    opened = browser.new_context(**({"viewport": WIDE} | context))
    visited = Visit(opened.new_page())
    opened.on("request", lambda request: visited.hosts.add(urlsplit(request.url).netloc))
    opened.on("console", visited.note_console)
    opened.on("weberror", lambda error: visited.complaints.append(str(error.error)))
    visited.page.goto(exporter.url)
    yield visited
    opened.close()
    assert visited.hosts == {urlsplit(exporter.url).netloc}
    assert visited.complaints == []


def assert_accessible(page: Page) -> None:
    """Check the page against axe's rules, and its width against the window's."""
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]  # type: ignore[index]


def complete(node: Running, request_id: str) -> int:
    """Send one completion and return its tokens."""
    asked = {"prompt": "Once upon a time", "max_tokens": 20}
    answer = httpx.post(
        f"{node.url}/v1/completions", json=asked, headers={"X-Request-ID": request_id}
    )
    answer.raise_for_status()
    tokens: int = answer.json()["usage"]["completion_tokens"]
    return tokens


def test_page_shows_what_the_metrics_hold(
    browser: Browser, shared_exporter: Running, shared_node: Running
) -> None:
    """A request appears on the open page, with the figures that `/metrics` has for it."""
    with visit(browser, shared_exporter) as visited:
        page = visited.page
        expect(page.locator("#connection")).to_have_text("live")
        expect(page.locator(".badge[data-field=state]")).to_have_text("online")
        tokens = complete(shared_node, "shown-on-the-page")
        row = page.locator("#request-rows tr", has_text="shown-on-the-page")
        expect(row).to_have_count(1)
        assert row.locator("td").nth(2).inner_text() == "ok"
        assert row.locator("td").nth(7).inner_text() == str(tokens)
        expect(page.locator(".models tbody th")).to_have_text("demo")
        expect(page.locator("[data-field=ended]")).not_to_have_text("of 0 requests")
        expect(page.locator("[data-field=p95]")).to_have_text(re.compile(r"^[\d.]+ m?s$"))
        told = page.locator("[data-field=telemetry]").inner_text()
        emitted, applied, dropped = map(
            int, re.findall(r"\d+", told.replace(",", "").partition(";")[0])
        )
        assert emitted == applied + dropped
        later = value(scrape(shared_exporter.url), "telemetry_events_emitted_total")
        assert later is not None
        assert 0 < emitted <= later


def test_lost_exporter_is_shown_and_found_again(browser: Browser, pair: Pair) -> None:
    """The page says that its exporter is gone, keeps what it showed, and goes on by itself."""
    with pair.exporter() as exporter, visit(browser, exporter) as visited:
        page = visited.page
        expect(page.locator("#connection")).to_have_text("live")
        expect(page.locator("#problems")).to_contain_text("no node has reported")
        port = urlsplit(exporter.url).port
        exporter.end(signal.SIGTERM)
        expect(page.locator("#connection")).to_have_text("lost, retrying")
        expect(page.locator("#announcer")).to_contain_text("may be old")
        expect(page.locator("#problems")).to_contain_text("no node has reported")
        with pair.exporter(f"--metrics-port={port}"):
            expect(page.locator("#connection")).to_have_text("live")


def test_page_asks_for_the_token_and_forgets_it(
    browser: Browser, pair: Pair, tmp_path: Path
) -> None:
    """The page asks for the token, reports a wrong one, and stores none."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    with (
        pair.exporter(f"--metrics-token-file={tokens}") as exporter,
        visit(browser, exporter) as visited,
    ):
        page = visited.page
        expect(page.locator("#key")).to_be_focused()
        assert page.locator("#key-message").inner_text() == ""
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-message")).to_have_text("The exporter does not know this token.")
        assert_accessible(page)
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#connection")).to_have_text("live")
        kept = "JSON.stringify([localStorage, sessionStorage, document.cookie])"
        assert TOKEN not in page.evaluate(kept)
        page.reload()
        expect(page.locator("#key")).to_be_focused()
        assert page.input_value("#key") == ""


def test_gone_node_is_shown_and_read_out(browser: Browser, pair: Pair) -> None:
    """A killed node turns the page's first line, its badge and what a screen reader hears."""
    with pair.exporter() as exporter, pair.node() as node, visit(browser, exporter) as visited:
        page = visited.page
        expect(page.locator("#health-title")).to_have_text("All is well")
        node.end(signal.SIGKILL)
        expect(page.locator(".badge[data-field=state]")).to_have_text("gone")
        expect(page.locator("#health-title")).to_have_text("Needs attention")
        expect(page.locator("#announcer")).to_contain_text("no events from node1")
        assert_accessible(page)


def test_sparkline_leaves_gaps_and_ends_at_the_right(
    browser: Browser, shared_exporter: Running, shared_node: Running
) -> None:
    """Unknown points are gaps; a short history begins at the right edge."""
    del shared_node
    with visit(browser, shared_exporter) as visited:
        drawn = visited.page.evaluate(
            """async () => {
                const { Sparkline } = await import("/pages/sparkline.js");
                const place = document.createElement("div");
                const line = new Sparkline(place, (value) => `${value} of it`);
                line.draw([0, 4, null, 2]);
                const picture = place.querySelector("svg");
                const path = place.querySelector("path:last-child").getAttribute("d");
                return [path, picture.getAttribute("aria-label")];
            }"""
        )
    assert drawn == ["M177.0,31.0L178.0,1.0M180.0,16.0", "Last 15 minutes: highest 4 of it"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_all_can_use_it(
    browser: Browser,
    shared_exporter: Running,
    shared_node: Running,
    scheme: str,
    viewport: dict[str, int],
) -> None:
    """The page breaks no rule of axe and fits the window; tables can be scrolled by keyboard."""
    complete(shared_node, "x" * 60)
    with visit(browser, shared_exporter, color_scheme=scheme, viewport=viewport) as visited:
        page = visited.page
        expect(page.locator("#request-rows tr").first).to_be_attached()
        assert_accessible(page)
        page.keyboard.press("Tab")
        expect(page.locator(".node .table")).to_be_focused()


def test_page_is_static_and_strict(shared_exporter: Running) -> None:
    """Each part has its type and strict headers, is answered 304, and nothing is inline."""
    html = httpx.get(shared_exporter.url).text
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)|https?:", html)
    parts = re.findall(r'(?:src|href)="(pages/[^"]+)"', html)
    assert parts
    for part in ("", *parts):
        answer = httpx.get(f"{shared_exporter.url}/{part}")
        assert answer.status_code == 200
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        known = {"If-None-Match": answer.headers["ETag"]}
        again = httpx.get(f"{shared_exporter.url}/{part}", headers=known)
        assert (again.status_code, again.content) == (304, b"")
    assert httpx.get(f"{shared_exporter.url}/pages/__init__.py").status_code == 404
