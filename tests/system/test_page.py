"""The page at `/` in a real browser, with a real node."""

import dataclasses
import json
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
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

from tests.browser import NARROW, NEEDS_CHROMIUM, WIDE, open_browser
from tests.processes import Pair, Running, scrape, value, wait_for

KEY: Final = "sk-a-key-of-a-client"
FIRST_TOKEN: Final = re.compile(r"^[\d.]+ (ms|s)$")
SPEED: Final = re.compile(r"^(≈ )?[\d.]+ tokens/s$")
UNKNOWN: Final = "\N{EN DASH}"
pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One headless browser."""
    with open_browser() as browser:
        yield browser


@dataclasses.dataclass
class Visit:
    """An open page, its requests and the browser's complaints."""

    page: Page
    requested: list[str] = dataclasses.field(default_factory=list)
    complaints: list[str] = dataclasses.field(default_factory=list)

    def send(self, text: str) -> None:
        """Type into the input and press the keys that send."""
        self.page.fill("#prompt", text)
        self.page.keyboard.press("Control+Enter")

    def reading(self, name: str) -> str:
        """Return a figure of the last answer."""
        return self.page.locator(f".answer dd[data-reading={name}]").last.inner_text()

    def message(self) -> str:
        """Return the message beside the input."""
        return self.page.locator("#message").inner_text()

    def note_request(self, request: Request) -> None:
        self.requested.append(request.url)

    def note_console(self, message: ConsoleMessage) -> None:
        # The browser itself logs each answer of 4xx or 5xx; those are expected.
        if message.type in {"error", "warning"} and "the server responded" not in message.text:
            self.complaints.append(message.text)


@contextmanager
def visit(browser: Browser, node: Running, **context: Any) -> Iterator[Visit]:
    """Open the page; check at the end that it used no other host and logged no error."""
    opened = browser.new_context(**({"viewport": WIDE} | context))
    visited = Visit(opened.new_page())
    opened.on("request", visited.note_request)
    opened.on("console", visited.note_console)
    opened.on("weberror", lambda error: visited.complaints.append(str(error.error)))
    visited.page.goto(node.url)
    yield visited
    opened.close()
    assert {urlsplit(url).netloc for url in visited.requested} == {urlsplit(node.url).netloc}
    assert visited.complaints == []


@pytest.fixture
def visited(browser: Browser, shared_node: Running) -> Iterator[Visit]:
    """A visit to the node with the demo model, once it lists its model."""
    with visit(browser, shared_node) as visited:
        expect(visited.page.locator("#model")).to_have_value("demo")
        yield visited


def assert_accessible(page: Page) -> None:
    """Check the page against axe's rules, and its width against the window's."""
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]  # type: ignore[index]


def test_conversation_by_keyboard_alone(visited: Visit, shared_node: Running) -> None:
    """A conversation works by keyboard alone, and shows the API's answers."""
    page = visited.page
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # opens the settings
    page.keyboard.press("Tab")
    page.keyboard.type("0")  # replaces the temperature, which Tab selected
    page.evaluate(
        """() => {
            globalThis.announced = [];
            const announcer = document.querySelector("#announcer");
            const note = () => announced.push(announcer.textContent);
            new MutationObserver(note).observe(announcer, { childList: true });
        }"""
    )
    page.locator("#prompt").focus()
    page.keyboard.type("Tell me a story about a dragon")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".answer.ended")).to_have_count(1)
    expect(page.locator("#prompt")).to_be_focused()

    told = [{"role": "user", "content": "Tell me a story about a dragon"}]
    asked = {"messages": told, "temperature": 0}
    whole = httpx.post(f"{shared_node.url}/v1/chat/completions", json=asked).json()
    text = whole["choices"][0]["message"]["content"]
    assert page.locator(".answer .text").inner_text() == text
    assert visited.reading("tokens") == str(whole["usage"]["completion_tokens"])
    assert visited.reading("end") == "by itself"
    assert FIRST_TOKEN.match(visited.reading("first"))
    announced = page.evaluate("announced")
    assert "".join(announced).partition(" Ended by itself")[0] == text
    assert len(announced) < whole["usage"]["completion_tokens"] / 10

    page.keyboard.type("Who was in the story?")
    for _ in ("settings", "temperature", "max tokens", "seed", "clear", "send"):
        page.keyboard.press("Tab")
    expect(page.locator("#send")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".answer.ended")).to_have_count(2)
    expect(page.locator("#prompt")).to_be_focused()
    # Without the first turn it would be another hero.
    assert "Dudley the dragon" in page.locator(".answer .text").last.inner_text()


def test_text_grows_and_stop_frees_the_engine(
    browser: Browser, pair: Pair, slow_model: Path
) -> None:
    """Text appears while it is generated; Escape stops page, queue and engine."""
    with (
        pair.exporter() as exporter,
        pair.node(f"--model={slow_model}") as node,
        visit(browser, node, reduced_motion="reduce") as visited,
    ):
        page = visited.page
        visited.send("Once upon a time")  # in a chat, for which this model has no template
        text = page.locator(".answer .text")
        expect(text).to_have_text(re.compile(r"^Once upon a time( \w+){3}"))
        expect(page.locator("#stop")).to_be_visible()
        early = text.inner_text()
        expect(text).to_have_text(re.compile(rf"^{re.escape(early)}\w*( \w+){{3}}"))
        expect(page.locator(".answer")).to_have_attribute("aria-busy", "true")
        assert "no chat template" in visited.message()
        caret = "getComputedStyle(document.querySelector('.answer .text'), '::after')"
        assert page.evaluate(f"{caret}.content") == '""'
        assert page.evaluate(f"{caret}.animationName") == "none"
        assert_accessible(page)
        page.keyboard.press("Escape")
        expect(page.locator(".answer.ended")).to_have_count(1)
        assert visited.reading("end") == "by you"
        assert visited.reading("tokens").startswith("≈ ")
        assert SPEED.match(visited.reading("speed"))

        def is_free() -> bool:
            samples = scrape(exporter.url)
            return (
                value(samples, "inference_requests_total", status="cancelled") == 1
                and value(samples, "inference_requests_in_flight") == 0
                and value(samples, "inference_slots", state="busy") == 0
            )

        wait_for(is_free)

        page.fill("#prompt", "Once more")
        page.click("summary")
        page.fill("#max-tokens", "5")
        page.click("#send")
        expect(page.locator(".answer.ended")).to_have_count(2)
        assert visited.reading("tokens") == "5"
        assert visited.reading("end") == "at the token limit"


def test_refused_prompt_is_explained_and_kept(visited: Visit) -> None:
    """A refusal is shown beside the input; text and conversation are kept."""
    page = visited.page
    visited.send("Hello")
    expect(page.locator(".answer.ended")).to_have_count(1)
    long = "word " * 700
    visited.send(long)
    expect(page.locator("#message")).to_contain_text("model's context holds 512")
    assert visited.message().startswith("The node refused this: ")
    assert page.locator("#message").get_attribute("role") == "alert"
    assert page.input_value("#prompt") == long
    expect(page.locator(".turn")).to_have_count(2)
    visited.send("Tell me a story")
    expect(page.locator(".answer.ended")).to_have_count(2)
    assert visited.message() == ""


def test_window_follows_the_end_unless_scrolled_away(visited: Visit) -> None:
    """The window follows a growing answer, unless the reader has scrolled up."""
    page = visited.page
    page.check("input[value=completion]")
    for count in (1, 2, 3, 4):
        visited.send("Once upon a time")
        expect(page.locator(".answer.ended")).to_have_count(count)
    page.click("summary")
    below = """new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => {
        const bottom = (part) => document.querySelector(part).getBoundingClientRect().bottom;
        const dock = document.querySelector(".dock").getBoundingClientRect().top;
        resolve([scrollY, bottom(".answer:last-child .readings") - dock]);
    })))"""
    scrolled, overlap = page.evaluate(below)
    assert scrolled > 0
    assert overlap <= 0
    page.click("summary")
    page.evaluate("scrollTo(0, 0)")
    page.evaluate(below)
    page.click("summary")
    assert page.evaluate(below)[0] == 0


def test_invalid_setting_opens_the_settings(visited: Visit) -> None:
    """An invalid setting opens the folded settings, and nothing is sent."""
    page = visited.page
    page.click("summary")
    page.fill("#max-tokens", "0")
    page.click("summary")
    visited.send("Hello")
    expect(page.locator("#max-tokens")).to_be_focused()
    assert not any("completions" in url for url in visited.requested)


def test_page_asks_for_the_key_and_forgets_it(browser: Browser, pair: Pair, tmp_path: Path) -> None:
    """The page asks for the API key, reports a wrong one, and stores none."""
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    with pair.node(f"--api-key-file={keys}") as node, visit(browser, node) as visited:
        page = visited.page
        expect(page.locator("#key")).to_be_focused()
        assert page.locator("#key-message").inner_text() == ""
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-message")).to_have_text("The node does not know this key.")
        assert_accessible(page)
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#prompt")).to_be_focused()
        visited.send("Hello")
        expect(page.locator(".answer.ended")).to_have_count(1)
        kept = "JSON.stringify([localStorage, sessionStorage, document.cookie])"
        assert KEY not in page.evaluate(kept)
        assert not any(KEY in url for url in visited.requested)
        page.reload()
        expect(page.locator("#key")).to_be_focused()
        assert page.input_value("#key") == ""
        expect(page.locator(".answer.ended")).to_have_count(1)


def test_full_queue_says_when_to_try_again(browser: Browser, pair: Pair, slow_model: Path) -> None:
    """With a full queue the page says when to retry."""
    with (
        pair.node(f"--model={slow_model}", "--queue=1") as node,
        visit(browser, node) as first,
        visit(browser, node) as second,
        visit(browser, node) as third,
    ):
        first.send("Once upon a time")
        expect(first.page.locator(".answer .text")).to_have_text(re.compile(r"time( \w+){3}"))
        for waiting in (second, third):
            waiting.page.check("input[value=completion]")
            waiting.send("Once upon a time")
        told = wait_for(lambda: [one for one in (second, third) if one.message()])
        assert len(told) == 1
        assert re.search(r"^The node is busy: .*\. Try again in \d+ s\.$", told[0].message())


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, "The connection broke before the answer was whole."),
        (signal.SIGTERM, "The answer broke off: "),
    ],
)
def test_broken_stream_is_told_and_what_came_is_kept(
    browser: Browser, pair: Pair, slow_model: Path, number: signal.Signals, message: str
) -> None:
    """A broken stream or a drain is shown as an error, and the text so far is kept."""
    flags = (f"--model={slow_model}", "--drain-seconds=0.2")
    with pair.node(*flags) as node, visit(browser, node) as visited:
        visited.page.check("input[value=completion]")
        visited.send("Once upon a time")
        text = visited.page.locator(".answer .text")
        expect(text).to_have_text(re.compile(r"time( \w+){3}"))
        node.end(number)
        expect(visited.page.locator("#message")).to_contain_text(message)
        assert visited.reading("end") == "broken off"
        assert re.search(r"time( \w+){3}", text.inner_text())
        visited.complaints.clear()  # Chromium's line about the broken connection

        visited.send("And now?")
        expect(visited.page.locator("#message")).to_contain_text("The node cannot be reached")
        visited.complaints.clear()


def test_speed_counts_what_came_after_the_first_read(visited: Visit) -> None:
    """The speed excludes the tokens of the first read."""
    readings = visited.page.evaluate(
        """async () => {
            const { Meter } = await import("/pages/meter.js");
            const meter = new Meter(1000);
            const shown = [meter.readings(1250)];
            for (const at of [1300, 1300, 1310, 1320]) meter.piece(at);
            shown.push(meter.readings(1400));
            meter.usage({ completion_tokens: 5, total_tokens: 9 });
            meter.ended("stop");
            return [...shown, meter.readings(9000)];
        }"""
    )
    assert [one["first"] for one in readings] == ["250 ms …", "300 ms", "300 ms"]
    assert [one["speed"] for one in readings] == [UNKNOWN, "≈ 100 tokens/s", "150 tokens/s"]
    assert [one["tokens"] for one in readings] == [UNKNOWN, "≈ 4", "5"]
    assert [one["end"] for one in readings] == [UNKNOWN, UNKNOWN, "by itself"]


def test_conversation_survives_a_reload_until_it_is_cleared(visited: Visit) -> None:
    """A reload shows the conversation as it was and continues it; Clear removes it for good."""
    page = visited.page
    visited.send("Tell me a story about a fox")
    expect(page.locator(".answer.ended")).to_have_count(1)
    shown = page.locator("#log").inner_html()
    context = page.locator("#context-text").inner_text()
    used, length = map(int, re.findall(r"\d+", context))
    assert 0 < used < length == 512
    meter = page.locator("#context-meter")
    assert (meter.get_attribute("value"), meter.get_attribute("max")) == (str(used), "512")

    page.reload()
    expect(page.locator("#context-text")).to_have_text(context)
    assert page.locator("#log").inner_html() == shown
    with page.expect_request("**/chat/completions") as request:
        visited.send("And then?")
    asked = request.value.post_data_json
    assert asked is not None
    assert [one["role"] for one in asked["messages"]] == ["user", "assistant", "user"]
    expect(page.locator(".answer.ended")).to_have_count(2)

    page.click("#clear")
    page.reload()
    expect(page.locator("#model")).to_have_value("demo")
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.locator("#welcome")).to_be_visible()
    expect(page.locator("#context")).to_be_hidden()
    assert page.evaluate("localStorage.length") == 0


def test_answer_that_a_reload_cuts_off_is_kept_as_far_as_it_came(
    browser: Browser, pair: Pair, slow_model: Path
) -> None:
    """A reload ends a running answer; what had arrived is still there."""
    with pair.node(f"--model={slow_model}") as node, visit(browser, node) as visited:
        page = visited.page
        page.check("input[value=completion]")
        visited.send("Once upon a time")
        expect(page.locator(".answer .text")).to_have_text(re.compile(r"time( \w+){3}"))
        page.reload()
        text = page.locator(".answer.ended .text")
        expect(text).to_have_text(re.compile(r"^Once upon a time( \w+){3}"))


def test_damaged_or_forbidden_storage_does_not_stop_the_page(
    browser: Browser, shared_node: Running
) -> None:
    """The page works without the browser's storage, and says that it keeps nothing."""
    with visit(browser, shared_node) as visited:
        page = visited.page
        page.evaluate("localStorage.setItem('distributed-llm.conversation', '{')")
        page.reload()
        expect(page.locator("#model")).to_have_value("demo")
        page.evaluate(
            "() => { Storage.prototype.setItem = () => { throw new DOMException('full'); }; }"
        )
        visited.send("Tell me a story")
        expect(page.locator(".answer.ended")).to_have_count(1)
        expect(page.locator("#message")).to_contain_text("does not keep the conversation")


def test_copy_button_copies_the_answer(browser: Browser, shared_node: Running) -> None:
    """An answer is copied as the model wrote it."""
    allowed = ["clipboard-read", "clipboard-write"]
    with visit(browser, shared_node, permissions=allowed) as visited:
        page = visited.page
        visited.send("Tell me a story about a fox")
        expect(page.locator(".answer.ended")).to_have_count(1)
        page.get_by_role("button", name="Copy this answer").click()
        expect(page.locator(".copy").last).to_have_text("Copied")
        copied = page.evaluate("navigator.clipboard.readText()")
        kept = page.evaluate("localStorage.getItem('distributed-llm.conversation')")
        assert copied == json.loads(kept)["exchanges"][0]["text"] != ""


def test_reasoning_is_folded_away_from_the_answer(visited: Visit) -> None:
    """Reasoning is shown folded and apart; it is neither sent again nor copied."""
    page = visited.page
    told: list[dict[str, Any]] = [
        {"delta": {"role": "assistant", "content": ""}, "finish_reason": None},
        {"delta": {"reasoning_content": "A fox is **red**."}, "finish_reason": None},
        {"delta": {"content": "It is **red**."}, "finish_reason": None},
        {"delta": {}, "finish_reason": "stop"},
    ]
    chunks = [json.dumps({"choices": [{"index": 0, **one}]}) for one in told]
    body = "".join(f"data: {chunk}\n\n" for chunk in [*chunks, "[DONE]"])
    page.route(
        "**/chat/completions",
        lambda route: route.fulfill(content_type="text/event-stream", body=body),
    )
    visited.send("Which colour?")
    expect(page.locator(".answer.ended")).to_have_count(1)
    expect(page.locator(".answer > .text")).to_have_text("It is red.")
    expect(page.locator(".answer > .text strong")).to_have_text("red")
    thoughts = page.locator(".reasoning .text")
    expect(thoughts).to_be_hidden()
    page.locator(".reasoning summary").click()
    expect(thoughts).to_have_text("A fox is **red**.")
    assert_accessible(page)
    with page.expect_request("**/chat/completions") as request:
        visited.send("Why?")
    asked = request.value.post_data_json
    assert asked is not None
    assert asked["messages"][1] == {"role": "assistant", "content": "It is **red**."}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_all_can_use_it(
    browser: Browser, shared_node: Running, scheme: str, viewport: dict[str, int]
) -> None:
    """The page breaks no rule of axe and fits the window, empty and full."""
    with visit(browser, shared_node, color_scheme=scheme, viewport=viewport) as visited:
        page = visited.page
        expect(page.locator("#model")).to_have_value("demo")
        assert_accessible(page)
        visited.send("Tell me a story about a fox " + "x" * 80)
        expect(page.locator(".answer.ended")).to_have_count(1)
        assert_accessible(page)
        page.click("summary")
        visited.send("word " * 700)
        expect(page.locator("#message")).not_to_be_empty()
        assert_accessible(page)
