"""The flags with which llama-server places exact layers on exact workers; no I/O.

llama-server keeps the embedding and the first layers itself and offloads the last ones, with the
output as one layer more. Whole numbers in `--tensor-split` that add up to `--n-gpu-layers` are
honoured exactly (llama.cpp, `llama_model::load_tensors`).
"""

from collections.abc import Sequence
from typing import Final

from node.engine.place import Stage

_SWITCHES: Final = ("--no-repack", "--no-warmup")
"""Workers do not repack weights. Where they are repacked, sums differ in their last bits, so that
another split would continue with another text. The first request warms up."""


def split_flags(workers: Sequence[Stage], endpoints: Sequence[str]) -> tuple[str, ...]:
    """Return the flags of a split.

    Args:
        workers: The stages after the coordinator's own, in order; at least one.
        endpoints: Where each one's worker listens.
    """
    layers = [stage.layers for stage in workers]
    layers[-1] += 1  # the output
    values = {
        "--rpc": ",".join(endpoints),
        "--device": ",".join(f"RPC{number}" for number in range(len(layers))),
        "--split-mode": "layer",
        "--n-gpu-layers": str(sum(layers)),
        "--tensor-split": ",".join(map(str, layers)),
        "--fit": "off",  # otherwise it would choose other layers, by the memory that it sees
    }
    return (*(text for pair in values.items() for text in pair), *_SWITCHES)
