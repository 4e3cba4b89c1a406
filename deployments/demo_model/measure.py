"""Measures how well the demo model keeps to its hero and to what was asked for.

Run as ``python -m deployments.demo_model.measure``; needs ctransformers, not PyTorch.
"""

import argparse
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import ctransformers

from deployments.demo_model.chat import Message
from deployments.demo_model.corpus import encode_chat
from deployments.demo_model.replies import STORY_REQUESTS_ABOUT
from deployments.demo_model.stories import with_article
from deployments.demo_model.tokenizer import BEGIN, Tokenizer
from deployments.demo_model.verify import CONTEXT_TOKENS, read_tokenizer
from deployments.demo_model.words import HEROES, Hero
from node.demo import MODEL_PATH

TEMPERATURE = 0.8
STORIES = 40
OPENING = "Once upon a time"
PRONOUNS = {"he": {"he", "him", "his"}, "she": {"she", "her"}}

Sample = Callable[[list[int], int], str]


def main() -> None:
    """Print the shares; every sample has its own seed, top_k 40 and top_p 0.95 are the defaults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_PATH)
    options = parser.parse_args()
    tokenizer = read_tokenizer(options.model)
    sample = _open_sampler(options.model, tokenizer)
    opening = [BEGIN, *tokenizer.encode(OPENING)]
    stories = [sample(opening, seed) for seed in range(STORIES)]
    _report("stories with one hero, by the right name", [_named_right(text) for text in stories])
    _report("stories with the right pronouns", [_pronouns_right(text) for text in stories])
    first, second = _tell_two(tokenizer, sample)
    _report("requests that got their hero", first)
    _report("second requests that got their hero", second)


def _tell_two(tokenizer: Tokenizer, sample: Sample) -> tuple[list[bool], list[bool]]:
    """For a request about each kind, and one more after it: is the story about that hero?"""
    first, second = [], []
    for number, hero in enumerate(HEROES):
        messages = [_request(number, hero)]
        story = sample(encode_chat(tokenizer, messages, add_generation_prompt=True), number)
        first.append(_hero(story) == hero)
        other = HEROES[number - 1]
        messages += [{"role": "assistant", "content": story}, _request(number + 1, other)]
        story = sample(encode_chat(tokenizer, messages, add_generation_prompt=True), number)
        second.append(_hero(story) == other)
    return first, second


def _request(number: int, hero: Hero) -> Message:
    wording = STORY_REQUESTS_ABOUT[number % len(STORY_REQUESTS_ABOUT)]
    return {"role": "user", "content": wording.format(subject=with_article(hero.kind))}


def _named_right(story: str) -> bool:
    hero = _hero(story)
    words = set(_words(story))
    return hero is not None and all(
        (word in words) == (other == hero) for other in HEROES for word in (other.kind, other.name)
    )


def _pronouns_right(story: str) -> bool:
    """No helper of a story has a pronoun, so that all of them are the hero's."""
    hero = _hero(story)
    words = {word.lower() for word in _words(story)}
    return hero is not None and not any(
        words & forms for pronoun, forms in PRONOUNS.items() if pronoun != hero.pronoun
    )


def _hero(story: str) -> Hero | None:
    """The hero of the kind that the story names first."""
    kinds = {hero.kind: hero for hero in HEROES}
    return next((kinds[word] for word in _words(story) if word in kinds), None)


def _words(text: str) -> list[str]:
    return re.findall("[A-Za-z]+", text)


def _open_sampler(path: Path, tokenizer: Tokenizer) -> Sample:
    config = ctransformers.Config(context_length=CONTEXT_TOKENS, threads=1)
    llm = ctransformers.LLM(model_path=str(path), model_type="llama", config=config)

    def sample(prompt: list[int], seed: int) -> str:
        tokens = llm.generate(prompt, temperature=TEMPERATURE, seed=seed, repetition_penalty=1.0)
        return tokenizer.decode(islice(tokens, CONTEXT_TOKENS - len(prompt)))

    return sample


def _report(label: str, results: list[bool]) -> None:
    print(f"{label}: {sum(results)} of {len(results)}")


if __name__ == "__main__":
    main()
