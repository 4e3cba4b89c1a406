"""A prompt is shown as the model gets it: its tokens and its text."""

from typing import Any

import httpx

from tests.processes import Running

STORY = "Once upon a time"
CHAT: Any = [{"role": "user", "content": "Hello"}]


def post(node: Running, path: str, **body: Any) -> Any:
    response = httpx.post(f"{node.url}{path}", json=body, timeout=60)
    response.raise_for_status()
    return response.json()


def test_tokens_of_a_text_are_its_prompts(shared_node: Running) -> None:
    """A text has the tokens that a completion of it evaluates, and they are its text again."""
    shown = post(shared_node, "/tokenize", prompt=STORY)
    assert shown == post(shared_node, "/tokenize", content=STORY, model="demo")
    completed = post(shared_node, "/v1/completions", prompt=STORY, max_tokens=1)
    assert shown["count"] == len(shown["tokens"]) == completed["usage"]["prompt_tokens"]
    text = post(shared_node, "/detokenize", tokens=shown["tokens"])["content"]
    assert text.removeprefix("<s>").strip() == STORY


def test_template_shows_what_the_model_gets(shared_node: Running) -> None:
    """The text of a chat has the tokens that an answer to the chat evaluates."""
    text = post(shared_node, "/apply-template", messages=CHAT)["prompt"]
    assert "Hello" in text
    assert text != "Hello"
    shown = post(shared_node, "/tokenize", messages=CHAT)
    answered = post(shared_node, "/v1/chat/completions", messages=CHAT, max_tokens=1)
    assert shown["count"] == answered["usage"]["prompt_tokens"]


def test_wrong_prompt_is_refused_by_name(shared_node: Running) -> None:
    """Both or neither of a text and a chat is refused, and so is a foreign token."""
    for wrong in ({}, {"prompt": "a", "messages": CHAT}):
        refused = httpx.post(f"{shared_node.url}/tokenize", json=wrong)
        assert refused.status_code == 400
        assert "`prompt` is required, or `messages`" in refused.json()["error"]["message"]
    refused = httpx.post(f"{shared_node.url}/detokenize", json={"tokens": [99999]})
    assert refused.status_code == 400
    assert "has the token 99999" in refused.json()["error"]["message"]
