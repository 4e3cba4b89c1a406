"""Reads what the engine child must know of its model's file."""

import os
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from node.engine.choice import Wanted, choose
from node.engine.gguf_file import read_head
from node.engine.model_file import open_model
from node.engine.protocol import Described
from node.engine.reading import read_open_facts, translated
from node.engine.vocabulary import Vocabulary, read_vocabulary


@dataclass(frozen=True)
class Header:
    """A model file's description of itself."""

    described: Described
    vocabulary: Vocabulary


def read_header(path: Path) -> Header:
    """Describe the model at `path`; of its weights, only samples are read.

    Raises:
        UnusableModelError: The file does not exist, is damaged, or ctransformers cannot run it.
    """
    with open_model(path) as file:
        return read_open_header(file, path)


def read_open_header(file: BufferedReader, path: Path) -> Header:
    """Describe the model in an open file, named `path`.

    Raises:
        UnusableModelError: The file is damaged, or ctransformers cannot run it.
    """
    described = choose(read_open_facts(file, path), Wanted("ctransformers"), path)
    with translated(path):
        file.seek(0)
        head = read_head(file, os.fstat(file.fileno()).st_size)
        return Header(described, read_vocabulary(head))
