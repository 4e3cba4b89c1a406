"""Reads what a GGUF file says of itself and decides whether the engine can run it.

Format: the GGUF specification of the ggml project; the `gguf` package reads it. Runs in the
engine child, so that a hostile file meets a process that may die.
"""

import contextlib
import hashlib
import io
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import gguf
import msgspec

from node.engine import NAME
from node.engine.protocol import Described
from node.engine.shape import Shape

ARCHITECTURES: Final = ("llama", "falcon")
TOKENIZERS: Final = ("llama",)
"""`llama` is GGUF's name for a tokenizer of the SPM kind (SentencePiece)."""
QUANTIZATIONS: Final = frozenset(
    {"F32", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}
)
_LAYER: Final = re.compile(r"blk\.([0-9]{1,6})\.")
_CHILD_BYTES: Final = 4 * 2**30
_CHILD_SECONDS: Final = 120
_CONTROL: Final = 3
"""Token type `CONTROL` (gguf.TokenType)."""
_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 4096


class UnusableModelError(Exception):
    """The file is no model that the engine runs; the text names cause and remedy in one line."""


def read_header(path: str) -> Described:
    """Describe the model at `path`, of whose weights only samples are read.

    Raises:
        UnusableModelError: There is no such file, it is damaged, or the engine cannot run it.
    """
    with _translated(path):
        reader = _open(path)
        described = _describe(reader)
        _check(reader, described, path)
        return msgspec.structs.replace(described, fingerprint=_fingerprint(path, reader))


def read_shape(path: str) -> Shape:
    """Tell how many bytes each part of the model at `path` has.

    Raises:
        UnusableModelError: As for `read_header`.
    """
    with _translated(path):
        reader = _open(path)
        described = _describe(reader)
        _check(reader, described, path)
        return _measure(reader, described)


def main(path: str) -> int:
    """Write a model's shape on stdout, or why there is none on stderr; give the exit code."""
    resource.setrlimit(resource.RLIMIT_DATA, (_CHILD_BYTES, _CHILD_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CHILD_SECONDS, _CHILD_SECONDS))
    try:
        shape = read_shape(path)
    except UnusableModelError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(msgspec.json.encode(shape).decode())
    return 0


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        message = f"the model file {path} cannot be read: allow this user to read it"
        raise UnusableModelError(message) from error
    except UnusableModelError:
        raise
    except Exception as error:  # the reader meets damage with whatever numpy raises
        message = f"{path} is damaged or no GGUF file ({error}): download or convert it again"
        raise UnusableModelError(" ".join(message.split())) from error


def _open(path: str) -> gguf.GGUFReader:
    file = Path(path)
    if not file.is_file():
        raise UnusableModelError(f"there is no model file at {file}: give --model a GGUF file")
    return gguf.GGUFReader(file)


def _describe(reader: gguf.GGUFReader) -> Described:
    architecture = str(_value(reader, "general.architecture", ""))
    tokens = _value(reader, "tokenizer.ggml.tokens", [])
    kinds = _value(reader, "tokenizer.ggml.token_type", [])
    pairs = enumerate(zip(tokens, kinds, strict=False))
    return Described(
        engine=NAME,
        architecture=architecture,
        quantization=_quantization(reader),
        size_bytes=sum(int(tensor.n_bytes) for tensor in reader.tensors),
        layers=int(_value(reader, f"{architecture}.block_count", 0)),
        context_length=int(_value(reader, f"{architecture}.context_length", 0)),
        position_bytes=_position_bytes(reader, architecture),
        chat_template=str(_value(reader, "tokenizer.chat_template", "")),
        control_tokens={text: i for i, (text, kind) in pairs if kind == _CONTROL},
        bos=_token(reader, tokens, "bos"),
        eos=_token(reader, tokens, "eos"),
    )


def _check(reader: gguf.GGUFReader, described: Described, path: str) -> None:
    tokenizer = _value(reader, "tokenizer.ggml.model", "none")
    unknown = {tensor.tensor_type.name for tensor in reader.tensors} - QUANTIZATIONS
    faults = (
        (
            described.architecture not in ARCHITECTURES,
            f"architecture {described.architecture!r} is not among {', '.join(ARCHITECTURES)}",
        ),
        (
            tokenizer not in TOKENIZERS,
            f"tokenizer {tokenizer!r} is not of the SentencePiece kind ('llama')",
        ),
        (
            bool(unknown),
            f"quantization {', '.join(sorted(unknown))} is not supported",
        ),
        (not described.layers or not reader.tensors, "it holds no layers"),
    )
    for is_fault, fault in faults:
        if is_fault:
            message = f"the engine cannot run {path}: {fault}; choose another model file"
            raise UnusableModelError(message)


def _fingerprint(path: str, reader: gguf.GGUFReader) -> str:
    """Tell the file from others: by its header and by samples from all over its weights.

    Any training moves nearly every weight, so that samples suffice; a whole file would take as long
    as loading it.
    """
    digest = hashlib.blake2b(digest_size=8)
    with Path(path).open("rb") as file:
        digest.update(file.read(reader.data_offset))
        end = file.seek(0, io.SEEK_END)
        digest.update(end.to_bytes(8))
        span = max(0, end - reader.data_offset - _SAMPLE_BYTES)
        for number in range(_SAMPLES):
            file.seek(reader.data_offset + span * number // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _measure(reader: gguf.GGUFReader, described: Described) -> Shape:
    """Add the tensors up by where they stand: before, in or behind the layers."""
    layers = [0] * described.layers
    embedding = output = 0
    for tensor in reader.tensors:
        layer = _LAYER.match(tensor.name)
        if layer and int(layer[1]) < len(layers):
            layers[int(layer[1])] += int(tensor.n_bytes)
        elif tensor.name.startswith("token_embd"):
            embedding += int(tensor.n_bytes)
        else:
            output += int(tensor.n_bytes)
    return Shape(
        layer_bytes=tuple(layers),
        embedding_bytes=embedding,
        output_bytes=output,
        is_tied="output.weight" not in {tensor.name for tensor in reader.tensors},
        position_bytes=described.position_bytes,
        context_length=described.context_length,
    )


def _value(reader: gguf.GGUFReader, key: str, default: Any) -> Any:
    found = reader.get_field(key)
    return default if found is None else found.contents()


def _token(reader: gguf.GGUFReader, tokens: list[str], which: str) -> str:
    identity = _value(reader, f"tokenizer.ggml.{which}_token_id", None)
    return tokens[identity] if identity is not None and identity < len(tokens) else ""


def _position_bytes(reader: gguf.GGUFReader, architecture: str) -> int:
    """Reckon what one position takes: a key and a value of 16-bit floats in each layer."""
    layers = int(_value(reader, f"{architecture}.block_count", 0))
    width = int(_value(reader, f"{architecture}.embedding_length", 0))
    heads = int(_value(reader, f"{architecture}.attention.head_count", 0)) or 1
    shared = int(_value(reader, f"{architecture}.attention.head_count_kv", heads))
    return 2 * 2 * layers * width * shared // heads


def _quantization(reader: gguf.GGUFReader) -> str:
    """Name the type that holds most of the weights, which is what people call the file by."""
    by_type: dict[str, int] = {}
    for tensor in reader.tensors:
        name = tensor.tensor_type.name
        by_type[name] = by_type.get(name, 0) + int(tensor.n_bytes)
    return max(by_type, key=by_type.__getitem__, default="none")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
