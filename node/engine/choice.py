"""Chooses the engine of a model's file, its slots and its context, from plain values."""

import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from node.engine.buffers import estimate_buffers
from node.engine.facts import Facts
from node.engine.fitting import USUAL_CONTEXT, fit
from node.engine.model_file import UnusableModelError
from node.engine.protocol import Described, OwnEngineName
from node.engine.shape import shape_of
from shared.paths import readable

HAS_CTRANSFORMERS: Final = sys.platform != "linux" or platform.machine() == "x86_64"
"""Its wheel for Linux has libraries for this processor only."""
ARCHITECTURES: Final = ("llama", "falcon")
"""What ctransformers runs, like the next two."""
TOKENIZERS: Final = ("llama",)
"""`llama` is GGUF's name for a tokenizer of the SPM kind (SentencePiece)."""
QUANTIZATIONS: Final = frozenset(
    {"F32", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}
)
SLOTS: Final[Mapping[OwnEngineName, Sequence[int]]] = {
    "ctransformers": (1,),
    "llama.cpp": (4, 2, 1),
}
"""Requests at once by default, the preferred number first. Four as in llama-server itself: a short
answer does not wait for the end of a long one. On a CPU they share the speed of one; a GPU decodes
them together at little more than the cost of one."""
_SPARE: Final = 1 / 8
"""The share of the free memory that defaults leave; a guess, as in `node.routing.holders`."""
UNKNOWN_CONTEXT: Final = 2048
"""Used if neither the settings nor the file specify the positions."""
_OTHER_KINDS: Final = {
    "mmproj": "a multimodal projector",
    "adapter": "an adapter",
    "imatrix": "an importance matrix",
    "vocab": "a vocabulary",
}
"""GGUF files that are not models, by `general.type`."""
_PROJECTOR: Final = "clip"
"""The architecture of projectors that do not name their type."""


@dataclass(frozen=True)
class Wanted:
    """How a model is to be held."""

    engine: OwnEngineName | Literal["auto"] = "auto"
    context_length: int = 0
    """Positions of each slot; 0 for as many as the model was trained with, if they fit."""
    slots: int = 0
    """Requests at once; 0 for the engine's default."""


def choose(facts: Facts, wanted: Wanted, path: Path, room_bytes: int | None = None) -> Described:
    """Return how the model at `path` will be held.

    Args:
        facts: What its file says.
        wanted: How to hold it.
        path: Where it is, for messages.
        room_bytes: Memory for it, to which defaults are fitted; None for any amount. Values that
            are set stay as they are, whether they fit or not.

    Raises:
        UnusableModelError: No engine runs it, or the wanted one does not.
    """
    name = readable(path)
    if fault := _find_fault(facts):
        raise UnusableModelError(f"no engine can run {name}: {fault}")
    engine = _choose_engine(facts, wanted, name)
    slots, context_length = _fit(facts, wanted, engine, room_bytes)
    buffers = estimate_buffers(facts, engine, context_length, slots)
    return Described(
        engine=engine,
        architecture=facts.architecture,
        quantization=facts.quantization,
        size_bytes=facts.size_bytes,
        layers=len(facts.layer_bytes),
        context_length=context_length,
        position_bytes=facts.cache.position_bytes,
        fingerprint=facts.fingerprint,
        slots=slots,
        embeds=facts.embeds,
        ranks=facts.ranks,
        buffer_bytes=buffers.total_bytes,
        shape=shape_of(facts, slots, context_length, buffers),
    )


def _fit(
    facts: Facts, wanted: Wanted, engine: OwnEngineName, room_bytes: int | None
) -> tuple[int, int]:
    """Return the slots and the positions of each."""
    fits = partial(_fits, facts, engine, room_bytes)
    possible = (wanted.slots,) if wanted.slots else SLOTS[engine]
    trained = facts.context_length or UNKNOWN_CONTEXT
    if facts.embeds:  # a text is one batch, whose buffers grow with its square
        trained = min(trained, USUAL_CONTEXT)
    return fit(possible, wanted.context_length, trained, fits)


def _fits(
    facts: Facts, engine: OwnEngineName, room_bytes: int | None, slots: int, context_length: int
) -> bool:
    """Return whether the model fits; a long context must leave half of the rest."""
    if room_bytes is None:
        return True
    rest = int(room_bytes * (1 - _SPARE)) - facts.size_bytes
    needed = slots * context_length * facts.cache.position_bytes
    needed += estimate_buffers(facts, engine, context_length, slots).total_bytes
    return needed <= (rest // 2 if context_length > USUAL_CONTEXT else rest)


def _find_fault(facts: Facts) -> str:
    """Return why no engine can run the file; empty if one may."""
    kind = "mmproj" if facts.architecture == _PROJECTOR else facts.kind
    if other := _OTHER_KINDS.get(kind):
        return f"it is {other}; name the file of the model itself"
    if not facts.layer_bytes or not facts.claimed_layers:
        return "it contains no layers; choose another model file"
    return ""


def _choose_engine(facts: Facts, wanted: Wanted, name: str) -> OwnEngineName:
    limit = next(_limits(facts, wanted.slots), "")
    if wanted.engine == "ctransformers" and limit:
        message = f"ctransformers cannot run {name}: {limit}; set --engine=llama.cpp"
        raise UnusableModelError(message)
    if wanted.engine == "llama.cpp" or limit:
        return "llama.cpp"
    return "ctransformers"


def _limits(facts: Facts, slots: int) -> Iterator[str]:
    """Yield the reasons why ctransformers cannot run the model."""
    unknown = set(facts.types) - QUANTIZATIONS
    if not HAS_CTRANSFORMERS:
        yield f"it does not run on {platform.machine()}"
    if facts.architecture not in ARCHITECTURES:
        shown = facts.architecture[:100]
        yield f"architecture {shown!r} is not among {', '.join(ARCHITECTURES)}"
    if facts.tokenizer not in TOKENIZERS:
        yield f"tokenizer {facts.tokenizer[:100]!r} is not SentencePiece ('llama')"
    if unknown:
        yield f"quantization {', '.join(sorted(unknown)[:5])} is not supported"
    if facts.parts > 1:
        yield f"it is split into {facts.parts} files"
    if facts.claimed_layers != len(facts.layer_bytes):
        yield f"it claims {facts.claimed_layers} layers but contains {len(facts.layer_bytes)}"
    if facts.embeds:
        yield "it makes vectors, not texts"
    if slots > 1:
        yield f"it answers one request at a time, not {slots}"
