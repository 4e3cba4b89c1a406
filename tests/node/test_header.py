"""A model file's header is read; files that the engine cannot run are refused with a remedy."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.ctransformers.header import read_header
from node.engine.model_file import UnusableModelError

_NOBODY = 65534

TYPES = gguf.GGMLQuantizationType
TOKENS = ["<unk>", "<s>", "</s>", "a", "<|user|>"]
KINDS = [
    gguf.TokenType.UNKNOWN,
    gguf.TokenType.CONTROL,
    gguf.TokenType.CONTROL,
    gguf.TokenType.NORMAL,
    gguf.TokenType.CONTROL,
]


def write_model(
    path: Path,
    architecture: str = "llama",
    tokenizer: str | None = "llama",
    weights: Any = TYPES.F32,
    layers: int = 2,
    held: int | None = None,
    **fields: str,
) -> Path:
    """Write a file of a few hundred bytes that is a model in all but size."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_block_count(layers)
    if tokenizer is not None:
        writer.add_tokenizer_model(tokenizer)
    writer.add_token_list(TOKENS)
    writer.add_token_types(KINDS)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, value in fields.items():
        writer.add_string(name.replace("__", "."), value)
    _, size = gguf.GGML_QUANT_SIZES[weights]
    packed = np.zeros((1, 2 * size), np.uint8)
    writer.add_tensor("token_embd.weight", packed, raw_dtype=weights)
    writer.add_tensor("output_norm.weight", np.ones(4, np.float32))
    for layer in range(layers if held is None else held):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def outcome(path: Path) -> str:
    """Return the reason of the refusal; empty if there is none."""
    try:
        read_header(path)
    except UnusableModelError as refused:
        return str(refused)
    return ""


def refusal(path: Path) -> str:
    with pytest.raises(UnusableModelError) as refused:
        read_header(path)
    message = str(refused.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_header_describes_the_model(tmp_path: Path) -> None:
    """The description of a model is that of its header."""
    template = "{{ messages }}"
    header = read_header(write_model(tmp_path / "m.gguf", tokenizer__chat_template=template))
    described, vocabulary = header.described, header.vocabulary
    assert (described.architecture, described.layers, described.context_length) == ("llama", 2, 64)
    assert vocabulary.control == {"<s>": 1, "</s>": 2, "<|user|>": 4}
    assert vocabulary.special == {"bos_token": "<s>", "eos_token": "</s>"}
    assert vocabulary.template == template
    assert described.size_bytes == 8 + 16 + 2 * 16


def test_quantization_is_that_of_most_weights(tmp_path: Path) -> None:
    """The quantization is that of most weights."""
    header = read_header(write_model(tmp_path / "m.gguf", weights=TYPES.Q6_K))
    assert header.described.quantization == "Q6_K"


def test_model_without_template_has_an_empty_one(tmp_path: Path) -> None:
    """A model without a chat template has an empty one."""
    assert read_header(write_model(tmp_path / "m.gguf")).vocabulary.template == ""


@pytest.mark.parametrize("name", ["missing.gguf", "missing/m.gguf", "."])
def test_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    """A missing file is refused with the flag to set."""
    assert "--model" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    "written", [b"", b"G", b"GGUF", b"GGML" + bytes(64), b"# a model\n" * 9, bytes(4096)]
)
def test_file_that_is_no_gguf_is_refused(tmp_path: Path, written: bytes) -> None:
    """A file that is not GGUF is refused as such."""
    path = tmp_path / "m.gguf"
    path.write_bytes(written)
    assert "download or convert it again" in refusal(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    """A file cut anywhere is refused: its weights are at the end."""
    whole = write_model(tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "m.gguf"
    data = gguf.GGUFReader(tmp_path / "whole.gguf").tensors[-1]
    end = int(data.data_offset) + int(data.n_bytes)
    for length in (*range(64), *range(64, end - 64, 7), *range(end - 64, end)):
        path.write_bytes(whole[:length])
        assert "again" in refusal(path)


def test_tokenizer_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A tokenizer name that is not text is refused as damage."""
    path = write_model(tmp_path / "m.gguf", tokenizer="TOKENIZER")
    path.write_bytes(path.read_bytes().replace(b"TOKENIZER", b"TOKEN\xff\xff\xffR"))
    refusal(path)


@hypothesis.settings(
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@given(changes=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1))
def test_damaged_file_is_described_or_refused(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    """Any bytes are described or refused."""
    path = tmp_path / "m.gguf"
    damaged = bytearray(write_model(path).read_bytes())
    for at, byte in changes:
        damaged[at % len(damaged)] = byte
    path.write_bytes(damaged)
    assert "\n" not in outcome(path)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2", "gemma", "Llama"])
def test_architecture_of_another_engine_is_refused(tmp_path: Path, architecture: str) -> None:
    """Another architecture is refused by name, with the supported ones."""
    message = refusal(write_model(tmp_path / "m.gguf", architecture=architecture))
    assert f"architecture '{architecture}' is not among llama, falcon" in message
    assert message.endswith("set --engine=llama.cpp")


@pytest.mark.parametrize("tokenizer", ["gpt2", "bert", "none", None])
def test_tokenizer_of_another_kind_is_refused(tmp_path: Path, tokenizer: str | None) -> None:
    """Another tokenizer, or a missing one, is refused by name."""
    message = refusal(write_model(tmp_path / "m.gguf", tokenizer=tokenizer))
    assert f"tokenizer '{tokenizer or 'none'}'" in message
    assert message.endswith("set --engine=llama.cpp")


@pytest.mark.parametrize("kind", [TYPES.IQ4_XS, TYPES.BF16, TYPES.Q8_K, TYPES.I8, TYPES.MXFP4])
def test_quantization_that_the_engine_lacks_is_refused(tmp_path: Path, kind: Any) -> None:
    """A quantization that the engine lacks is refused by name."""
    message = refusal(write_model(tmp_path / "m.gguf", weights=kind))
    assert f"quantization {kind.name} is not supported" in message
    assert message.endswith("set --engine=llama.cpp")


def test_model_without_layers_is_refused(tmp_path: Path) -> None:
    """A file without layers, such as a vocabulary, is refused."""
    assert "no layers" in refusal(write_model(tmp_path / "m.gguf", layers=0))


@pytest.mark.parametrize("claimed", [1, 3, 20_000_000, 2**32 - 1])
def test_model_that_claims_other_layers_than_it_holds_is_refused(
    tmp_path: Path, claimed: int
) -> None:
    """A layer count that does not match the tensors is refused."""
    message = refusal(write_model(tmp_path / "m.gguf", layers=claimed, held=2))
    assert f"claims {claimed} layers but contains 2" in message or "whole number" in message


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Drop root's rights for a while, as root can read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("closed", ["file", "directory"])
def test_file_that_may_not_be_read_is_refused(closed: str) -> None:
    """A file of another user is refused with the permission as remedy."""
    with tempfile.TemporaryDirectory() as directory:
        path = write_model(Path(directory) / "m.gguf")
        Path(directory).chmod(0o755 if closed == "file" else 0)
        path.chmod(0)
        with as_nobody():
            message = refusal(path)
        assert "allow this user to read it" in message
        Path(directory).chmod(0o700)


def test_fingerprint_tells_weights_apart(tmp_path: Path) -> None:
    """A copy has the same fingerprint; other weights or another header do not."""
    model = write_model(tmp_path / "a.gguf")
    copy = write_model(tmp_path / "b.gguf")
    renamed = write_model(tmp_path / "c.gguf", general__name="other")
    trained = write_model(tmp_path / "d.gguf")
    reader = gguf.GGUFReader(trained, "r+")
    reader.tensors[0].data[:] = 1
    reader.data.flush()
    prints = [read_header(path).described.fingerprint for path in (model, copy, renamed, trained)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
