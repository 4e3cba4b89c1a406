"""Writes copies of the demo model with changed metadata."""

import functools
from pathlib import Path
from typing import Any, Final

import gguf

from node.demo import MODEL_PATH

TOKENS: Final = "tokenizer.ggml.tokens"
KINDS: Final = "tokenizer.ggml.token_type"
_ARRAY: Final = gguf.GGUFValueType.ARRAY


@functools.cache
def _demo() -> gguf.GGUFReader:
    return gguf.GGUFReader(MODEL_PATH)


def demo_value(key: str) -> Any:
    """Return the demo model's value of a metadata key."""
    return _demo().fields[key].contents()


def copy_demo(path: Path, changes: dict[str, Any]) -> Path:
    """Write a copy with changed metadata; None removes a key."""
    reader = _demo()
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        if (value := changes.get(key, field.contents())) is not None:
            kind = field.types[-1] if field.types[0] == _ARRAY else None
            writer.add_key_value(key, value, field.types[0], sub_type=kind)
    for key in changes.keys() - reader.fields.keys():
        value = changes[key]
        if isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    for tensor in reader.tensors:
        writer.add_tensor(
            tensor.name, tensor.data, raw_shape=tensor.data.shape, raw_dtype=tensor.tensor_type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rename_tokens(names: dict[int, str], kinds: dict[int, int]) -> dict[str, Any]:
    """Return the changes that give tokens another text and type."""
    tokens, types = demo_value(TOKENS), demo_value(KINDS)
    for number, name in names.items():
        tokens[number] = name
    for number, kind in kinds.items():
        types[number] = kind
    return {TOKENS: tokens, KINDS: types}
