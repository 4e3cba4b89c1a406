"""Reads a GGUF file's description of itself and decides whether the engine can run it.

It runs in the engine child or in its own process, within limits, because the file may be hostile.
"""

import contextlib
import hashlib
import io
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Final

import msgspec

from node.engine import NAME
from node.engine.gguf_file import DamagedFileError, Head, read_head
from node.engine.limits import bounded
from node.engine.model_file import UnusableModelError, open_model
from node.engine.protocol import Described
from node.engine.shape import Shape
from node.engine.split_file import Part
from node.engine.vocabulary import Vocabulary, read_vocabulary
from shared.paths import readable

ARCHITECTURES: Final = ("llama", "falcon")
TOKENIZERS: Final = ("llama",)
"""`llama` is GGUF's name for a tokenizer of the SPM kind (SentencePiece)."""
QUANTIZATIONS: Final = frozenset(
    {"F32", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}
)
_LAYER: Final = re.compile(r"blk\.([0-9]{1,6})\.")
_PARTS_AT_MOST: Final = 2**16
_MEMORY_BYTES: Final = 2 * 2**30
"""For the process that reads a header, including the interpreter."""
_SECONDS: Final = 30.0
_LAYERS_AT_MOST: Final = 4096
"""The deepest known model has 126."""
_WIDTH_AT_MOST: Final = 2**20
"""Numbers per position and layer; the widest known model has 2**15."""
_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 4096
_BLOCK_BYTES: Final = 2**20


@dataclass(frozen=True)
class Header:
    """A model file's description of itself."""

    described: Described
    vocabulary: Vocabulary


def read_header(path: Path) -> Header:
    """Describe the model at `path`; of its weights, only samples are read.

    Raises:
        UnusableModelError: The file does not exist, is damaged, or the engine cannot run it.
    """
    with open_model(path) as file:
        return read_open_header(file, path)


def read_open_header(file: BufferedReader, path: Path) -> Header:
    """Describe the model in an open file, named `path`.

    Raises:
        UnusableModelError: The file is damaged, or the engine cannot run it.
    """
    with _translated(path):
        head = _read_usable(file, path)
        described = _describe(head, _fingerprint(file, head.data_offset))
        return Header(described, read_vocabulary(head))


def read_shape(path: Path) -> Shape:
    """Return the size in bytes of each part of the model at `path`.

    Raises:
        UnusableModelError: As for `read_header`.
    """
    with open_model(path) as file, _translated(path):
        head = _read_usable(file, path)
        return _measure(head, _describe(head, ""))


def main(path: Path) -> int:
    """Write a model's shape to stdout, or an error to stderr; return the exit code."""
    try:
        shape = read_shape(path)
    except UnusableModelError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(msgspec.json.encode(shape).decode())
    return 0


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Read within limits; any fault of the file becomes an UnusableModelError."""
    name = readable(path)
    try:
        with bounded(_SECONDS, _MEMORY_BYTES):
            yield
    except DamagedFileError as error:
        message = f"{name} is damaged or not a GGUF file ({error}): download or convert it again"
        raise UnusableModelError(message) from error
    except TimeoutError as error:
        message = f"the header of {name} was not read within {_SECONDS:g} s: try another disk"
        raise UnusableModelError(message) from error
    except MemoryError as error:
        limit = f"{_MEMORY_BYTES // 2**20} MiB of memory"
        message = f"the header of {name} needs more than {limit}: choose another model file"
        raise UnusableModelError(message) from error
    except OSError as error:
        message = f"the model file {name} cannot be read ({error.strerror}): check the disk"
        raise UnusableModelError(message) from error


def _read_usable(file: BufferedReader, path: Path) -> Head:
    head = read_head(file, os.fstat(file.fileno()).st_size)
    _check_whole(head, path)
    fault = _find_fault(head)
    if fault:
        message = f"the engine cannot run {readable(path)}: {fault}; choose another model file"
        raise UnusableModelError(message)
    return head


def _find_fault(head: Head) -> str:
    """Return why the engine cannot run the model; empty if it can."""
    architecture = head.text("general.architecture")
    tokenizer = head.text("tokenizer.ggml.model", "none")
    unknown = {tensor.kind for tensor in head.tensors} - QUANTIZATIONS
    if architecture not in ARCHITECTURES:
        return f"architecture {architecture[:100]!r} is not among {', '.join(ARCHITECTURES)}"
    if tokenizer not in TOKENIZERS:
        return f"tokenizer {tokenizer[:100]!r} is not SentencePiece ('llama')"
    if unknown:
        return f"quantization {', '.join(sorted(unknown)[:5])} is not supported"
    layers, held = (
        head.number(f"{architecture}.block_count", 0, _LAYERS_AT_MOST),
        _layers_held(head),
    )
    if not layers or not held:
        return "it contains no layers"
    if layers != held:
        return f"it claims {layers} layers but contains {held}"
    return ""


def _layers_held(head: Head) -> int:
    found = (_LAYER.match(tensor.name) for tensor in head.tensors)
    return len({int(layer[1]) for layer in found if layer})


def _check_whole(head: Head, path: Path) -> None:
    """Raise UnusableModelError if the file is only a part of a model."""
    count = head.number("split.count", 1, _PARTS_AT_MOST)
    if count < 2:
        return
    part = Part.read(path.name)
    missing = ", ".join(map(readable, part.missing(path.parent))) if part else ""
    message = (
        f"{readable(path)} is part {head.number('split.no', 0, _PARTS_AT_MOST) + 1} of {count} of "
        f"a model, and {NAME} loads whole files only: merge the parts into one file with "
        f"llama-gguf-split --merge{f' (missing: {missing})' if missing else ''}"
    )
    raise UnusableModelError(message)


def _describe(head: Head, fingerprint: str) -> Described:
    architecture = head.text("general.architecture")
    return Described(
        engine=NAME,
        architecture=architecture,
        quantization=_quantization(head),
        size_bytes=sum(tensor.size_bytes for tensor in head.tensors),
        layers=head.number(f"{architecture}.block_count", 0, _LAYERS_AT_MOST),
        context_length=head.number(f"{architecture}.context_length"),
        position_bytes=_position_bytes(head, architecture),
        fingerprint=fingerprint,
    )


def _fingerprint(file: BufferedReader, data_offset: int) -> str:
    """Return the file's fingerprint: a digest of its header and samples from all its weights.

    Training changes nearly every weight, so samples are enough. Reading the whole file would take
    as long as loading it.
    """
    digest = hashlib.blake2b(digest_size=8)
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    for start in range(0, data_offset, _BLOCK_BYTES):
        digest.update(file.read(min(_BLOCK_BYTES, data_offset - start)))
    digest.update(end.to_bytes(8))
    span = max(0, end - data_offset - _SAMPLE_BYTES)
    for number in range(_SAMPLES):
        file.seek(data_offset + span * number // (_SAMPLES - 1))
        digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _measure(head: Head, described: Described) -> Shape:
    """Sum the tensors by their place: before, in or after the layers."""
    layers = [0] * described.layers
    embedding = output = 0
    for tensor in head.tensors:
        layer = _LAYER.match(tensor.name)
        if layer and int(layer[1]) < len(layers):
            layers[int(layer[1])] += tensor.size_bytes
        elif tensor.name.startswith("token_embd"):
            embedding += tensor.size_bytes
        else:
            output += tensor.size_bytes
    return Shape(
        layer_bytes=tuple(layers),
        embedding_bytes=embedding,
        output_bytes=output,
        is_tied="output.weight" not in {tensor.name for tensor in head.tensors},
        position_bytes=described.position_bytes,
        context_length=described.context_length,
    )


def _position_bytes(head: Head, architecture: str) -> int:
    """Return the memory of one position: a key and a value of 16-bit floats in each layer."""
    layers = head.number(f"{architecture}.block_count", 0, _LAYERS_AT_MOST)
    width = head.number(f"{architecture}.embedding_length", 0, _WIDTH_AT_MOST)
    heads = head.number(f"{architecture}.attention.head_count", 0, _WIDTH_AT_MOST) or 1
    shared = head.number(f"{architecture}.attention.head_count_kv", heads, heads)
    return 2 * 2 * layers * width * shared // heads


def _quantization(head: Head) -> str:
    """Return the type of most of the weights, by which people name the file."""
    by_type: dict[str, int] = {}
    for tensor in head.tensors:
        by_type[tensor.kind] = by_type.get(tensor.kind, 0) + tensor.size_bytes
    return max(by_type, key=by_type.__getitem__, default="none")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
