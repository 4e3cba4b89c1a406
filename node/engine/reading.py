"""Reads a model file's header for facts, within limits, because the file may be hostile.

`python -m node.engine.reading PATH` writes them to standard output as one JSON document:
`{"facts": …}` or `{"refused": "one line"}`. It imports little, so that it starts at once.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from node.engine.cache_size import WIDTH_AT_MOST, measure_cache
from node.engine.facts import Facts
from node.engine.gguf_file import read_head
from node.engine.gguf_head import DamagedFileError, Head, Tensor
from node.engine.limits import bounded
from node.engine.model_file import UnusableModelError, open_model
from node.engine.split_file import Part
from shared.paths import readable

SECONDS: Final = 30.0
"""Limit for reading a header."""
_MEMORY_BYTES: Final = 2 * 2**30
"""For the process that reads a header, including the interpreter."""
_LAYER: Final = re.compile(r"(?:enc\.|dec\.)?blk\.([0-9]{1,6})\.")
_LAYERS_AT_MOST: Final = 4096
"""The deepest known model has 126."""
_RANK: Final = 4
"""The pooling type of rerankers."""
_EXPERTS_AT_MOST: Final = 4096
"""The largest known number in a model is 512."""
_PARTS_AT_MOST: Final = 1024
"""The largest known model has about 100 parts."""
_SAMPLES: Final = 64
_SAMPLE_BYTES: Final = 4096
_BLOCK_BYTES: Final = 2**20


def read_facts(path: Path) -> Facts:
    """Read the facts of the model at `path`; of its weights, only samples are read.

    Raises:
        UnusableModelError: The file does not exist, is damaged, or is not a whole model.
    """
    with open_model(path) as file:
        return read_open_facts(file, path)


def read_open_facts(file: BufferedReader, path: Path) -> Facts:
    """Read the facts of the model in an open file, named `path`.

    Raises:
        UnusableModelError: The file is damaged, or is not a whole model.
    """
    with translated(path):
        head = read_head(file, os.fstat(file.fileno()).st_size, texts=False)
        parts = [_Opened(head, _fingerprint(file, head.data_offset))]
        parts += _read_other_parts(head, path)
        return _sum_up(parts)


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Read within limits; any fault of the file becomes an UnusableModelError."""
    name = readable(path)
    try:
        with bounded(SECONDS, _MEMORY_BYTES):
            yield
    except DamagedFileError as error:
        message = f"{name} is damaged or not a GGUF file ({error}): download or convert it again"
        raise UnusableModelError(message) from error
    except TimeoutError as error:
        message = f"the header of {name} was not read within {SECONDS:g} s: try another disk"
        raise UnusableModelError(message) from error
    except MemoryError as error:
        limit = f"{_MEMORY_BYTES // 2**20} MiB of memory"
        message = f"the header of {name} needs more than {limit}: choose another model file"
        raise UnusableModelError(message) from error
    except OSError as error:
        message = f"the model file {name} cannot be read ({error.strerror}): check the disk"
        raise UnusableModelError(message) from error


@dataclasses.dataclass(frozen=True)
class _Opened:
    """What was read of one file."""

    head: Head
    fingerprint: str


def _read_other_parts(head: Head, path: Path) -> Iterator[_Opened]:
    """Yield the other parts of a split model.

    Raises:
        UnusableModelError: The given file is not the first part, or a part is missing.
    """
    count = head.number("split.count", 1, _PARTS_AT_MOST)
    if count < 2:
        return
    part, number = Part.read(path.name), head.number("split.no", 0, _PARTS_AT_MOST) + 1
    if part is None or (part.number, part.count) != (number, count):
        remedy = f"rename it to NAME-{number:05}-of-{count:05}.gguf, as its other parts"
        raise UnusableModelError(f"{readable(path)} is part {number} of {count}: {remedy}")
    if number != 1:
        first = readable(path.with_name(part.names[0]))
        raise UnusableModelError(
            f"{readable(path)} is part {number} of {count}: name the first part, {first}"
        )
    if missing := part.missing(path.parent):
        names = ", ".join(map(readable, missing[:5]))
        raise UnusableModelError(
            f"{readable(path)} is part 1 of {count} of a model, and parts are missing: copy "
            f"{names} beside it"
        )
    for name in part.names[1:]:
        yield _read_part(path.with_name(name), count)


def _read_part(path: Path, count: int) -> _Opened:
    with open_model(path) as file, _named(path):
        head = read_head(file, os.fstat(file.fileno()).st_size, texts=False)
        if head.number("split.count", 1, _PARTS_AT_MOST) != count:
            raise DamagedFileError(f"it is not one of {count} parts")
        return _Opened(head, _fingerprint(file, head.data_offset))


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the part's name into the message about its damage."""
    try:
        yield
    except DamagedFileError as error:
        raise DamagedFileError(f"its part {readable(path.name)}: {error}") from error


def _sum_up(parts: Sequence[_Opened]) -> Facts:
    head = parts[0].head
    architecture = head.text("general.architecture")
    tensors = [tensor for part in parts for tensor in part.head.tensors]
    layers, embedding, output = _measure_places(tensors)
    names = {tensor.name: tensor for tensor in tensors}
    pooling = head.number(f"{architecture}.pooling_type")
    return Facts(
        kind=head.text("general.type", "model"),
        architecture=architecture,
        tokenizer=head.text("tokenizer.ggml.model", "none"),
        types=tuple(sorted({tensor.kind for tensor in tensors})),
        quantization=_quantization(tensors),
        claimed_layers=head.number(f"{architecture}.block_count", 0, _LAYERS_AT_MOST),
        layer_bytes=layers,
        embedding_bytes=embedding,
        output_bytes=output,
        is_tied="output.weight" not in names,
        context_length=head.number(f"{architecture}.context_length"),
        tokens=_rows(names.get("token_embd.weight")),
        width=head.number(f"{architecture}.embedding_length", 0, WIDTH_AT_MOST),
        hidden_width=_hidden_width(head, architecture, len(layers)),
        experts_used=head.number(f"{architecture}.expert_used_count", 0, _EXPERTS_AT_MOST) or 1,
        cache=measure_cache(head, len(layers)),
        embeds=pooling > 0,
        ranks=pooling == _RANK,
        parts=len(parts),
        fingerprint=_join([part.fingerprint for part in parts]),
    )


def _measure_places(tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], int, int]:
    """Return the bytes of each layer, those before the first and those after the last."""
    layers: dict[int, int] = {}
    embedding = output = 0
    for tensor in tensors:
        if layer := _LAYER.match(tensor.name):
            number = int(layer[1])
            layers[number] = layers.get(number, 0) + tensor.size_bytes
        elif tensor.name.startswith("token_embd"):
            embedding += tensor.size_bytes
        else:
            output += tensor.size_bytes
    if len(layers) > _LAYERS_AT_MOST:
        raise DamagedFileError(f"it contains {len(layers)} layers")
    return tuple(layers[number] for number in sorted(layers)), embedding, output


def _quantization(tensors: Sequence[Tensor]) -> str:
    by_type: dict[str, int] = {}
    for tensor in tensors:
        by_type[tensor.kind] = by_type.get(tensor.kind, 0) + tensor.size_bytes
    return max(by_type, key=by_type.__getitem__, default="none")


def _rows(tensor: Tensor | None) -> int:
    return tensor.dimensions[1] if tensor and len(tensor.dimensions) > 1 else 0


def _hidden_width(head: Head, architecture: str, layers: int) -> int:
    keys = (f"{architecture}.expert_feed_forward_length", f"{architecture}.feed_forward_length")
    widths = (max(head.per_layer(key, layers, 0, WIDTH_AT_MOST), default=0) for key in keys)
    return next(filter(None, widths), 0)


def _fingerprint(file: BufferedReader, data_offset: int) -> str:
    """Return a file's fingerprint: a digest of its header and samples from all its weights.

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


def _join(fingerprints: Sequence[str]) -> str:
    if len(fingerprints) == 1:
        return fingerprints[0]
    return hashlib.blake2b("".join(fingerprints).encode(), digest_size=8).hexdigest()


def main(path: Path) -> None:
    """Write a model's facts, or why it cannot be used, to standard output."""
    answer: dict[str, Any]
    try:
        answer = {"facts": dataclasses.asdict(read_facts(path))}
    except UnusableModelError as error:
        answer = {"refused": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
