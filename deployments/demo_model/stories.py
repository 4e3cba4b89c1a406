"""Writes the training stories: a seeded grammar of heroes, places and plots."""

import re
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from deployments.demo_model import plots
from deployments.demo_model.words import HEROES, PLACES, TRAITS, Hero

# The first choice of a list is this much likelier than each other one, so that the most likely
# sentence is clear and greedy text does not hang on the rounding of one engine.
FIRST_CHOICE_WEIGHT = 2.5
TRAIT_SHARE = 0.8

PRONOUNS = {"she": ("her", "her"), "he": ("him", "his")}

Option = TypeVar("Option")


@dataclass(frozen=True)
class Story:
    """A story's text, its hero and its plot."""

    text: str
    hero: Hero
    plot: plots.Plot


def write_story(random: Random, hero: Hero, trait: str = "") -> Story:
    """A story of about 120 to 180 tokens; any trait will do where none is given."""
    if not trait and random.random() < TRAIT_SHARE:
        trait = choose(random, TRAITS)
    plot = choose(random, plots.PLOTS)
    slots = _slots(hero, trait) | {"place": choose(random, PLACES)}
    beats = (plots.OPENINGS, plots.HOMES, *plot.beats, plots.ENDINGS)
    return Story(" ".join(fill(choose(random, beat), slots) for beat in beats), hero, plot)


def any_hero(random: Random) -> Hero:
    """A hero for a listener who has no wish."""
    return choose(random, HEROES)


def choose(random: Random, options: tuple[Option, ...]) -> Option:
    """One of the options, the first with a lead of ``FIRST_CHOICE_WEIGHT``."""
    weights = [FIRST_CHOICE_WEIGHT] + [1.0] * (len(options) - 1)
    return random.choices(options, weights)[0]


def with_article(phrase: str) -> str:
    """The phrase after "a" or "an"."""
    return f"an {phrase}" if phrase[0] in "aeio" else f"a {phrase}"


def fill(sentence: str, slots: dict[str, str]) -> str:
    """The sentence with its slots filled."""
    return re.sub(r"\{(\w+)\}", lambda match: slots[match[1]], sentence)


def _slots(hero: Hero, trait: str) -> dict[str, str]:
    """The words for the slots that ``plots`` names, with and without a capital."""
    him, his = PRONOUNS[hero.pronoun]
    described = with_article(f"{trait} {hero.kind}".strip())
    slots = {
        "name": hero.name, "kind": hero.kind, "he": hero.pronoun, "him": him, "his": his,
        "a_hero": described,
    }  # fmt: skip
    return slots | {slot.capitalize(): word.capitalize() for slot, word in slots.items()}
