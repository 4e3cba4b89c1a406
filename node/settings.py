"""The node's settings: the only list of its options."""

import dataclasses
from pathlib import Path
from typing import Final

import click

from node.demo import MODEL_PATH
from shared.settings import PORT, SEEDS, Settings, setting

_POSITIVE: Final = click.FloatRange(min=0, min_open=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeSettings(Settings):
    """What the node is told."""

    model: Path = setting(
        MODEL_PATH, click.Path(path_type=Path), "GGUF file to serve; the demo model if not given."
    )
    api_port: int = setting(8080, PORT, "Port of the API; 0 takes a free one.")
    mesh_port: int = setting(7946, PORT, "Port of the mesh; 0 takes a free one.")
    seed_nodes: tuple[str, ...] = setting((), SEEDS, "Peers to join the mesh by.")
    context_length: int = setting(
        0, click.IntRange(min=0), "Tokens of context; 0 for what the model was trained with."
    )
    threads: int = setting(
        0, click.IntRange(min=0), "Threads of the engine; 0 for one a usable core but one."
    )
    queue: int = setting(64, click.IntRange(min=1), "Requests that may wait for a model.")
    drain_seconds: float = setting(
        20.0, click.FloatRange(min=0), "Seconds that running requests get when the node stops."
    )
    stall_seconds: float = setting(
        120.0, _POSITIVE, "Seconds without progress after which a working engine is replaced."
    )
    flush_seconds: float = setting(
        0.2, _POSITIVE, "Seconds that metric events gather before they are sent."
    )
