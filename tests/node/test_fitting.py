"""Slots and context that are not set are chosen so that the model fits in memory."""

from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.choice import Wanted, choose
from node.engine.fitting import USUAL_CONTEXT, fit
from node.engine.reading import read_facts
from node.serving.catalogue import find_shortage
from tests.random_models import random_model, write_model

SLOTS = (4, 2, 1)
COUNTS = st.integers(1, 2**20)


def fit_positions(slots: tuple[int, ...], context: int, trained: int, room: int) -> tuple[int, int]:
    """Fit a model that needs nothing but its positions."""
    return fit(slots, context, trained, lambda number, length: number * length <= room)


@pytest.mark.parametrize(
    ("context", "trained", "room", "expected"),
    [
        (0, 4096, 16384, (4, 4096)),
        (0, 4096, 8192, (2, 4096)),
        (0, 131072, 65536, (4, 16384)),
        (0, 131072, 32767, (2, 16128)),
        (0, 131072, 2000, (1, 1792)),
        (8192, 131072, 8192, (1, 8192)),
        (8192, 131072, 100, (1, 8192)),
        (0, 131072, 100, (1, USUAL_CONTEXT)),
        (0, 512, 100, (1, 512)),
    ],
)
def test_slots_give_way_before_context(
    context: int, trained: int, room: int, expected: tuple[int, int]
) -> None:
    """Fewer slots come before a short context; what fits in no way is left to be refused."""
    assert fit_positions(SLOTS, context, trained, room) == expected


@given(slots=COUNTS, context=COUNTS, trained=COUNTS, room=COUNTS)
def test_what_is_set_stays(slots: int, context: int, trained: int, room: int) -> None:
    """Values that an operator has set are never changed."""
    assert fit_positions((slots,), context, trained, room) == (slots, context)


@given(trained=COUNTS, room=COUNTS)
def test_default_fits_if_anything_does(trained: int, room: int) -> None:
    """A default is at most as trained, and fits unless it is hopeless."""
    slots, context = fit_positions(SLOTS, 0, trained, room)
    assert 0 < context <= trained
    hypothesis.assume(room >= USUAL_CONTEXT or room >= trained)
    assert slots * context <= room


def test_long_context_fits_a_small_machine(tmp_path: Path) -> None:
    """A model trained for a million positions gets as many as half of the free memory holds."""
    path = write_model(tmp_path / "m.gguf", "qwen3", qwen3__context_length=2**20)
    facts, room = read_facts(path), 512 * 2**20
    chosen = choose(facts, Wanted(), path, room)
    assert USUAL_CONTEXT < chosen.context_length < 2**20
    assert chosen.slots == 4
    assert find_shortage(chosen, room) == ""
    assert choose(facts, Wanted(), path).context_length == 2**20


def test_embedding_model_gets_a_usual_context(tmp_path: Path) -> None:
    """A whole text is one batch, so a long context would take gigabytes of buffers."""
    path = write_model(tmp_path / "m.gguf", "embedder", bert__context_length=2**17)
    facts = read_facts(path)
    assert choose(facts, Wanted(), path).context_length == USUAL_CONTEXT
    assert choose(facts, Wanted(context_length=2**16), path).context_length == 2**16


def test_shortage_names_slots_and_context() -> None:
    """What is set and does not fit is refused with the numbers and the remedy."""
    path = random_model("qwen3")
    chosen = choose(read_facts(path), Wanted("auto", 2**20, 8), path, 2**30)
    told = find_shortage(chosen, 2**30)
    for part in (
        "12,288 MiB for 1048576 positions of context in each of 8 slots",
        "1,024 MiB are free",
        "set fewer --slots, or a smaller --context-length",
    ):
        assert part in told
