"""The engine child with models whose tokens differ from the demo model's."""

import functools
import os
from pathlib import Path
from typing import Any, Final

import pytest

from node.demo import MODEL_PATH
from node.engine.ctransformers.header import read_header
from node.engine.ctransformers.library import CTransformersEngine
from node.engine.protocol import Finished, Generate, Sampled
from node.requests.request import Chat, Turn
from tests.gguf_copies import copy_demo, demo_value, rename_tokens
from tests.system.test_engine import GREEDY, Child

EOS: Final = "tokenizer.ggml.eos_token_id"
TEMPLATE: Final = "tokenizer.chat_template"
SPARE: Final = 300
CONTROL, DEFINED, NORMAL = 3, 4, 1
HELLO: Final[tuple[Turn, ...]] = ({"role": "user", "content": "Hello"},)


def engine_of(path: Path) -> CTransformersEngine:
    """Load a model as the child does."""
    return CTransformersEngine(str(path), 256, 1, read_header(path).vocabulary)


def answer(path: Path, turns: tuple[Turn, ...] = HELLO) -> tuple[str, str]:
    """Return the answer to a chat, and why it ended."""
    child = Child(path)
    child.send(Generate(1, Chat(turns), 80, GREEDY))
    *results, end = child.until_finished()
    child.close()
    assert isinstance(end, Finished)
    text = b"".join(result.text for result in results if isinstance(result, Sampled))
    return text.decode(), end.reason


@functools.cache
def answer_of_the_demo() -> tuple[str, str]:
    """Return the answer of the unchanged model to the same chat."""
    return answer(MODEL_PATH)


TURN_ENDS: Final[dict[str, tuple[str, int, dict[str, Any]]]] = {
    "named by the file": ("<|stop|>", CONTROL, {"tokenizer.ggml.eot_token_id": 2}),
    "ChatML": ("<|im_end|>", CONTROL, {}),
    "ChatML as an ordinary token": ("<|im_end|>", NORMAL, {}),
    "ChatML as a user-defined token": ("<|im_end|>", DEFINED, {}),
    "Llama 3": ("<|eot_id|>", CONTROL, {}),
    "Gemma": ("<end_of_turn>", CONTROL, {}),
    "Phi": ("<|end|>", DEFINED, {}),
    "SentencePiece": ("</s>", CONTROL, {}),
}


@pytest.mark.parametrize("case", TURN_ENDS)
def test_answer_ends_with_the_turn(tmp_path: Path, case: str) -> None:
    """An answer ends with the model's end of a turn, even if that is not its end of a text."""
    name, kind, fields = TURN_ENDS[case]
    changes = rename_tokens({2: name, SPARE: "<|other|>"}, {2: kind, SPARE: CONTROL})
    template = demo_value(TEMPLATE).replace("</s>", name)
    changes |= {EOS: SPARE, TEMPLATE: template, **fields}
    text, reason = answer(copy_demo(tmp_path / "m.gguf", changes))
    assert (reason, name in text) == ("stop", False)
    assert text == answer_of_the_demo()[0]


def test_text_is_never_merged_into_a_control_token(tmp_path: Path) -> None:
    """Text is not merged into a control token whose halves are in the vocabulary."""
    changes = rename_tokens({400: "</", 401: "s>"}, {})
    engine = engine_of(copy_demo(tmp_path / "m.gguf", changes))
    assert 2 in engine._tokenize_text("x</s>y")
    tokens = engine.tokenize("x</s>y", control_tokens=False)
    assert 2 not in tokens
    assert b"".join(map(engine.text, tokens)) == b" x</s>y"


def test_user_defined_token_is_read_and_written(tmp_path: Path) -> None:
    """A user-defined token is one token in a prompt, and text in an answer."""
    changes = rename_tokens({400: "<tool>"}, {400: DEFINED})
    engine = engine_of(copy_demo(tmp_path / "m.gguf", changes))
    assert 400 in engine.tokenize("Once <tool> there", control_tokens=False)
    assert engine.text(400) == b"<tool>"


BOS_CASES: Final = {
    "wanted, not written": (True, "{{ messages[0].content }}", 1),
    "wanted and written": (True, "{{ bos_token }}{{ messages[0].content }}", 1),
    "not wanted, but written": (False, "{{ bos_token }}{{ messages[0].content }}", 1),
    "neither": (False, "{{ messages[0].content }}", 0),
}


@pytest.mark.parametrize("case", BOS_CASES)
def test_beginning_is_there_once_at_most(tmp_path: Path, case: str) -> None:
    """The beginning-of-text token is there at most once, if the file or the template wants it."""
    adds, template, count = BOS_CASES[case]
    changes = {"tokenizer.ggml.add_bos_token": adds, TEMPLATE: template}
    path = copy_demo(tmp_path / "m.gguf", changes)
    tokens = engine_of(path).tokenize(
        template.replace("{{ bos_token }}", "<s>").replace("{{ messages[0].content }}", "a"),
        control_tokens=True,
    )
    assert tokens.count(1) == count
    assert answer(path)[1] in ("stop", "length")


def test_empty_prompt_without_a_beginning_is_refused(tmp_path: Path) -> None:
    """An empty prompt without a beginning token is refused: it would crash the library."""
    child = Child(copy_demo(tmp_path / "m.gguf", {"tokenizer.ggml.add_bos_token": False}))
    child.send(Generate(1, "", 4, GREEDY))
    end = child.receive()
    child.close()
    assert isinstance(end, Finished)
    assert (end.reason, "empty" in end.message) == ("refused", True)


def test_model_with_its_template_under_a_name_chats(tmp_path: Path) -> None:
    """A file with several templates uses `default` for chats."""
    named = {f"{TEMPLATE}.default": demo_value(TEMPLATE), f"{TEMPLATE}.tool_use": "x"}
    path = copy_demo(tmp_path / "m.gguf", {TEMPLATE: None, **named})
    assert answer(path) == answer_of_the_demo()


def test_assistants_last_message_is_continued() -> None:
    """An answer continues the assistant's last message in the middle of a sentence."""
    whole, _ = answer_of_the_demo()
    begun = whole[: whole.index(" ", 8)]
    text, reason = answer(MODEL_PATH, (*HELLO, {"role": "assistant", "content": begun}))
    assert (begun + text, reason) == (whole, "stop")


@pytest.mark.parametrize(
    "name", [b"m\xff.gguf", b"m\n.gguf", b"m" * 240 + b".gguf", "日本.gguf".encode()]
)
def test_file_of_any_name_is_loaded(tmp_path: Path, name: bytes) -> None:
    """A file of any name is loaded, because the library gets an open file."""
    deep = tmp_path / ("d" * 200) / ("e" * 200)
    deep.mkdir(parents=True)
    path = deep / os.fsdecode(name)
    path.write_bytes(MODEL_PATH.read_bytes())
    assert answer(path)[1] == "stop"
