"""Chooses a model's slots and its context where they are not set, so that it fits in memory."""

from collections.abc import Callable, Sequence
from typing import Final

USUAL_CONTEXT: Final = 8192
"""Fewer slots are better than less context than this; more must leave memory for other models."""
_LEAST_CONTEXT: Final = 1024
"""With less than this, a model is of no use: it is refused for lack of memory instead."""
_STEP: Final = 256

Fits = Callable[[int, int], bool]
"""Whether a number of slots, each with a context, fits in memory; the less of both, the better."""


def fit(slots: Sequence[int], context_length: int, trained: int, fits: Fits) -> tuple[int, int]:
    """Return the slots and the context of each.

    Args:
        slots: The possible numbers, the preferred one first.
        context_length: As set; 0 for as trained, or less if that does not fit.
        trained: The context that the model was trained with.
        fits: Decides.
    """
    enough = context_length or min(trained, USUAL_CONTEXT)
    chosen = next((number for number in slots if fits(number, enough)), slots[-1])
    if context_length or fits(chosen, trained):
        return chosen, context_length or trained
    longest = _longest(trained, lambda length: fits(chosen, length))
    return chosen, longest if longest >= _LEAST_CONTEXT else enough


def _longest(trained: int, fits: Callable[[int], bool]) -> int:
    """Return the longest context that fits, in whole steps; 0 if none does."""
    least, most = 0, trained // _STEP
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if fits(middle * _STEP) else (least, middle - 1)
    return least * _STEP
