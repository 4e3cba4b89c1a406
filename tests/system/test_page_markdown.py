"""How the page shows a model's Markdown, in a real browser."""

import json
import random
from collections.abc import Iterator
from typing import Final

import pytest
from playwright.sync_api import Page

from tests.browser import NEEDS_CHROMIUM, open_browser
from tests.processes import Running

pytestmark = NEEDS_CHROMIUM

SHOW: Final = """async (pieces) => {
    const { Growing } = await import("/pages/markdown.js");
    const place = document.createElement("div");
    const growing = new Growing(place);
    for (const piece of pieces) growing.add(piece);
    return place.innerHTML;
}"""
CASES: Final = {
    "a paragraph\nof two lines\n\nanother": "<p>a paragraph\nof two lines</p><p>another</p>",
    "# One\n### Three ###\n####### seven": "<h3>One</h3><h5>Three</h5><p>####### seven</p>",
    "#hashtag and C#": "<p>#hashtag and C#</p>",
    "*a* _b_ **c** __d__ ~~e~~ `f`": (
        "<p><em>a</em> <em>b</em> <strong>c</strong> <strong>d</strong> <del>e</del>"
        " <code>f</code></p>"
    ),
    "**bold with *nested* text**": "<p><strong>bold with <em>nested</em> text</strong></p>",
    "2 * 3 * 4, snake_case_name, a ** b": "<p>2 * 3 * 4, snake_case_name, a ** b</p>",
    "`a * b` and ``a ` b`` and \\*c\\*": (
        "<p><code>a * b</code> and <code>a ` b</code> and *c*</p>"
    ),
    "- a\n- b\n  - c\n\n  more\n- d": (
        "<ul><li>a</li><li>b<ul><li>c</li></ul><p>more</p></li><li>d</li></ul>"
    ),
    "3. c\n4. d": '<ol start="3"><li>c</li><li>d</li></ol>',
    "1. a\n\n2. b\n\ntext": "<ol><li>a</li><li>b</li></ol><p>text</p>",
    "> q\n> - r\n\ns": "<blockquote><p>q</p><ul><li>r</li></ul></blockquote><p>s</p>",
    "a\n\n---\n\nb": "<p>a</p><hr><p>b</p>",
    "```python\nif a < b:\n\n    *c*\n```\nafter": (
        '<pre data-language="python" tabindex="0"><code>if a &lt; b:\n\n    *c*</code></pre>'
        "<p>after</p>"
    ),
    "~~~\nnot ended": '<pre tabindex="0"><code>not ended</code></pre>',
    "| a | b |\n|---|:-:|\n| 1 | `x \\| y` |\n| 2 |": (
        '<div class="wide" tabindex="0"><table><thead><tr><th>a</th><th>b</th></tr></thead>'
        "<tbody><tr><td>1</td><td><code>x \\| y</code></td></tr>"
        "<tr><td>2</td><td></td></tr></tbody></table></div>"
    ),
    "a | b": "<p>a | b</p>",
    "<b>x</b> <img src=x onerror=alert(1)> &amp;": (
        "<p>&lt;b&gt;x&lt;/b&gt; &lt;img src=x onerror=alert(1)&gt; &amp;amp;</p>"
    ),
    "[a](https://example.org/b?c=d)": (
        '<p><a href="https://example.org/b?c=d" target="_blank" rel="noopener noreferrer nofollow">'
        "a</a> (example.org)</p>"
    ),
    "[a](javascript:alert(1)) ![b](https://example.org/c)": (
        '<p>[a](javascript:alert(1)) !<a href="https://example.org/c" target="_blank"'
        ' rel="noopener noreferrer nofollow">b</a> (example.org)</p>'
    ),
    "\n\n": "",
    "": "",
}


@pytest.fixture(scope="module")
def page(shared_node: Running) -> Iterator[Page]:
    """The node's page."""
    with open_browser() as browser:
        page = browser.new_page()
        page.goto(shared_node.url)
        yield page


@pytest.mark.parametrize(("text", "shown"), CASES.items())
def test_markdown_becomes_elements_and_nothing_becomes_html(
    page: Page, text: str, shown: str
) -> None:
    """Each form gives its elements, whole and letter by letter; markup of HTML stays text."""
    assert page.evaluate(SHOW, [text]) == shown
    assert page.evaluate(SHOW, list(text)) == shown


def test_growing_text_ends_as_the_whole_one(page: Page) -> None:
    """In whatever pieces a text arrives, it ends as if it had come in one."""
    drawn = random.Random(7)
    forms = [*CASES, *"\n \t*_`~#>|-1.[]()\\", "\n\n", "    ", "|---|---|\n", "- ", "```\n"]
    for _ in range(300):
        text = "".join(drawn.choices(forms, k=drawn.randint(1, 12)))
        cuts = sorted(drawn.choices(range(len(text) + 1), k=8))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert page.evaluate(SHOW, pieces) == page.evaluate(SHOW, [text]), json.dumps(pieces)


def test_hostile_text_costs_no_more_than_its_length(page: Page) -> None:
    """Texts that make careless patterns explode are shown within the test's time."""
    for form in ("**a ", "*a", "_a _", "`", "[a](", "> " * 50, "- " * 50, "|a", "~~a", "1. "):
        page.evaluate(SHOW, [form * 4000])
