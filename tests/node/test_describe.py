"""A model's file is described before any engine runs, and an engine is chosen for it."""

import os
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio
from trio.testing import trio_test

from node.demo import MODEL_PATH
from node.engine import choice
from node.engine import describe as module
from node.engine.choice import Wanted
from node.engine.describe import describe
from node.engine.model_file import UnusableModelError
from node.engine.protocol import Described
from tests.random_models import NAMES, random_model, write_model
from tests.random_weights import CONTEXT_TOKENS, LAYERS


def described(path: Path, wanted: Wanted = Wanted()) -> Described:  # noqa: B008 - it is frozen
    return trio.run(describe, path, wanted)


def refusal(path: Path, wanted: Wanted = Wanted()) -> str:  # noqa: B008 - it is frozen
    with pytest.raises(UnusableModelError) as refused:
        described(path, wanted)
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    return message


def test_file_of_the_old_engine_goes_to_it() -> None:
    """A llama model with a SentencePiece tokenizer runs on ctransformers, one slot."""
    found = described(MODEL_PATH)
    assert (found.engine, found.slots, found.context_length) == ("ctransformers", 1, 512)


@pytest.mark.parametrize("name", NAMES)
def test_current_architecture_goes_to_llama_cpp(name: str) -> None:
    """What ctransformers cannot run goes to llama.cpp, several slots."""
    found = described(random_model(name))
    assert (found.engine, found.layers) == ("llama.cpp", LAYERS)
    assert found.context_length == CONTEXT_TOKENS
    assert found.slots > 1
    assert found.embeds == (name in ("embedder", "ranker"))
    assert found.ranks == (name == "ranker")


def test_named_engine_is_taken() -> None:
    """llama.cpp also runs what `auto` gives to ctransformers."""
    found = described(MODEL_PATH, Wanted("llama.cpp", 128, 2))
    assert (found.engine, found.context_length, found.slots) == ("llama.cpp", 128, 2)


def test_engine_that_cannot_run_the_file_is_refused() -> None:
    """The reason and the remedy are in the message."""
    message = refusal(random_model("qwen3"), Wanted("ctransformers"))
    assert "architecture 'qwen3'" in message
    assert message.endswith("set --engine=llama.cpp")


def test_processor_without_the_old_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ctransformers has no library, every file goes to llama.cpp."""
    monkeypatch.setattr(choice, "HAS_CTRANSFORMERS", False)
    assert described(MODEL_PATH).engine == "llama.cpp"
    assert "it does not run on" in refusal(MODEL_PATH, Wanted("ctransformers"))


def test_several_slots_need_llama_cpp() -> None:
    """Ctransformers has one slot, so several go to llama.cpp or are refused."""
    assert described(MODEL_PATH, Wanted(slots=2)).engine == "llama.cpp"
    assert "one request at a time, not 2" in refusal(MODEL_PATH, Wanted("ctransformers", slots=2))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"general__type": "mmproj"}, "it is a multimodal projector"),
        ({"general__type": "adapter"}, "it is an adapter"),
        ({"qwen2__block_count": 0}, "it contains no layers"),
    ],
)
def test_file_that_is_no_model_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    """What llama.cpp's own tools write besides models is named."""
    path = write_model(tmp_path / "m.gguf", "qwen2", **changes)
    assert f"no engine can run {path}: {says}" in refusal(path)


def test_path_with_a_nul_is_refused() -> None:
    """No process can be given such a path."""
    assert "there is no model file" in refusal(Path("m\0.gguf"))


def split(directory: Path) -> list[Path]:
    """Write a model in four parts and return their paths."""
    write_model(directory / "m.gguf", "qwen2", split_tensors=20)
    return sorted(directory.iterdir())


def test_split_model_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    """A split model is described by its first part like a whole one."""
    whole = described(random_model("qwen2"))
    first, *others = split(tmp_path)
    found = described(first)
    assert len(others) == 3
    assert (found.size_bytes, found.layers) == (whole.size_bytes, LAYERS)
    assert found.position_bytes == whole.position_bytes
    assert found.engine == "llama.cpp"


def test_split_model_needs_all_parts(tmp_path: Path) -> None:
    """A missing part is named, and one that is damaged too."""
    first, second, third, _ = split(tmp_path)
    second.unlink()
    assert f"copy {second.name} beside it" in refusal(first)
    shutil.copy(MODEL_PATH, second)
    assert f"its part {second.name}: it is not one of 4 parts" in refusal(first)
    second.write_bytes(third.read_bytes()[:1000])
    assert f"its part {second.name}: " in refusal(first)


def test_fingerprint_of_a_split_model_covers_all_parts(tmp_path: Path) -> None:
    """Other weights in any part make another model."""
    first, *_, last = split(tmp_path)
    before = described(first).fingerprint
    content = bytearray(last.read_bytes())
    content[-2] ^= 1
    last.write_bytes(content)
    assert described(first).fingerprint != before


def test_other_part_or_name_is_refused_with_the_first(tmp_path: Path) -> None:
    """llama.cpp loads a split model by the name of its first part."""
    first, second, *_ = split(tmp_path)
    assert f"name the first part, {first}" in refusal(second)
    renamed = Path(shutil.copy(first, tmp_path / "renamed.gguf"))
    assert "rename it to NAME-00001-of-00004.gguf" in refusal(renamed)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("kill -11 $$", "was killed by signal 11"),
        ("echo {; exit 3", "ended with status 3"),
        ("head -c 100000000 /dev/zero", "ended with status"),
        ("sleep 60", "was not read within 0.5 s"),
    ],
)
def test_reader_that_fails_is_one_line(
    monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    """A reader that dies, babbles or hangs costs bounded time and memory."""
    monkeypatch.setattr(module, "_READER", ("/bin/sh", "-c", script))
    if "sleep" in script:
        monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.5)
    assert says in refusal(MODEL_PATH)


@pytest.mark.parametrize("number", [9, 15])
def test_killed_reader_is_not_the_fault_of_the_file(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A reader that the system or an operator kills may succeed at the next attempt."""
    monkeypatch.setattr(module, "_READER", ("/bin/sh", "-c", f"kill -{number} $$"))
    with pytest.raises(OSError, match=f"was killed by signal {number}"):
        described(MODEL_PATH, Wanted())


@trio_test
async def test_cancelled_description_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled description ends at once, with its process."""
    monkeypatch.setattr(module, "_READER", ("/bin/sh", "-c", "sleep 60"))
    this = psutil.Process(os.getpid())
    before = set(this.children())
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(describe, MODEL_PATH, Wanted())
            while not (started := set(this.children()) - before):  # noqa: ASYNC110 - no event
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert not any(process.is_running() for process in started)
