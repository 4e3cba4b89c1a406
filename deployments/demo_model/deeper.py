"""Writes the demo model with its layers repeated: a file of another size that runs as it does.

What it tells is nonsense of the same words. It is for a mesh whose nodes have different models.
"""

from pathlib import Path
from typing import Any

import gguf

from node.demo import MODEL_PATH

_ARCHITECTURE = "llama"
_WRITTEN_ANEW = frozenset({"general.architecture", f"{_ARCHITECTURE}.block_count"})


def write_deeper(path: Path, times: int) -> None:
    """Write the model with each layer `times` times."""
    reader = gguf.GGUFReader(MODEL_PATH)
    writer = gguf.GGUFWriter(path, _ARCHITECTURE)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in _WRITTEN_ANEW:
            kind, *inner = field.types
            writer.add_key_value(name, field.contents(), kind, inner[-1] if inner else None)
    layers = int(_contents(reader, f"{_ARCHITECTURE}.block_count"))
    writer.add_block_count(layers * times)
    for tensor in reader.tensors:
        for name in _names(tensor.name, layers, times):
            writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _names(name: str, layers: int, times: int) -> list[str]:
    if not name.startswith("blk."):
        return [name]
    _, layer, rest = name.split(".", 2)
    return [f"blk.{int(layer) + layers * again}.{rest}" for again in range(times)]


def _contents(reader: gguf.GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    return field.contents() if field else 0
