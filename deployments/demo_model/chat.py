"""Writes the training conversations, and renders conversations as the chat template does."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypedDict

from deployments.demo_model import replies
from deployments.demo_model.stories import Story, any_hero, choose, fill, with_article, write_story
from deployments.demo_model.words import HEROES, TRAITS, Hero

SYSTEM_SHARE = 0.25
CARELESS_SHARE = 0.35
INTRODUCTION_SHARE = 0.2
TRAIT_WISH_SHARE = 0.25
END_OF_TURN = "</s>"

# The common form of the Zephyr family. The beginning token is left to the tokenizer, so that it
# never comes twice.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('Only the roles system, user and assistant are supported.') }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


class Message(TypedDict):
    """One message of a conversation; ``role`` is system, user or assistant."""

    role: str
    content: str


@dataclass
class Conversation:
    """A conversation under way: its messages and the story told last."""

    random: Random
    messages: list[Message] = field(default_factory=list)
    story: Story | None = None

    def exchange(self, question: str, answer: str) -> None:
        """Add a user's message, typed the way people type, and the assistant's answer."""
        self.messages.append({"role": "user", "content": _as_typed(self.random, question)})
        self.messages.append({"role": "assistant", "content": answer})


def render(messages: list[Message], *, add_generation_prompt: bool = False) -> str:
    """The text that ``CHAT_TEMPLATE`` gives for the messages."""
    text = "".join(
        f"<|{message['role']}|>\n{message['content'].strip()}"
        f"{END_OF_TURN if message['role'] == 'assistant' else ''}\n"
        for message in messages
    )
    return text + ("<|assistant|>\n" if add_generation_prompt else "")


def write_conversation(random: Random, turns: int) -> list[Message]:
    """A conversation of so many questions and answers, sometimes after a system message."""
    conversation = Conversation(random)
    if random.random() < SYSTEM_SHARE:
        content = random.choice(replies.SYSTEM_PROMPTS)
        conversation.messages.append({"role": "system", "content": content})
    for _ in range(turns):
        _add_turn(conversation)
    return conversation.messages


def _add_turn(conversation: Conversation) -> None:
    turns = _TURNS if conversation.story is None else _TURNS | _TURNS_AFTER_STORY
    add = conversation.random.choices(list(turns), list(turns.values()))[0]
    add(conversation)


def _small_talk(conversation: Conversation) -> None:
    topic = conversation.random.choice(replies.SMALL_TALK)
    question = conversation.random.choice(topic.questions)
    conversation.exchange(question, choose(conversation.random, topic.answers))


def _ask_unknown(conversation: Conversation) -> None:
    random = conversation.random
    subject = random.choice(replies.SUBJECTS)
    question = random.choice(replies.UNKNOWN_QUESTIONS).format(subject=subject)
    conversation.exchange(question, choose(random, replies.UNKNOWN_ANSWERS))


def _ask_nonsense(conversation: Conversation) -> None:
    random = conversation.random
    words = random.choices((*replies.PLAIN_WORDS, *replies.SUBJECTS), k=random.randint(1, 6))
    question = " ".join(words) + random.choice(("?", ".", ""))
    conversation.exchange(question, choose(random, replies.UNKNOWN_ANSWERS))


def _ask_story(conversation: Conversation) -> None:
    request = conversation.random.choice(replies.STORY_REQUESTS)
    _tell(conversation, request, any_hero(conversation.random))


def _ask_story_about(conversation: Conversation) -> None:
    random = conversation.random
    hero = random.choice(HEROES)
    trait = random.choice(TRAITS) if random.random() < TRAIT_WISH_SHARE else ""
    subject = with_article(f"{trait} {hero.kind}".strip())
    introduction = ""
    if random.random() < INTRODUCTION_SHARE:
        introduction = f"Here is a story about {with_article(hero.kind)}."
    _tell(conversation, _request_about(random, subject), hero, trait, introduction)


def _ask_story_about_unknown(conversation: Conversation) -> None:
    random = conversation.random
    subject = random.choice(replies.UNKNOWN_HEROES)
    introduction = choose(random, replies.INSTEAD)
    _tell(conversation, _request_about(random, subject), any_hero(random), "", introduction)


def _ask_another(conversation: Conversation) -> None:
    request = conversation.random.choice(replies.ANOTHER_REQUESTS)
    _tell(conversation, request, any_hero(conversation.random))


def _request_about(random: Random, subject: str) -> str:
    return random.choice(replies.STORY_REQUESTS_ABOUT).format(subject=subject)


def _tell(
    conversation: Conversation, request: str, hero: Hero, trait: str = "", introduction: str = ""
) -> None:
    story = write_story(conversation.random, hero, trait)
    conversation.exchange(request, f"{introduction} {story.text}".strip())
    conversation.story = story


def _ask_about_story(conversation: Conversation) -> None:
    story = conversation.story
    if story is None:
        return
    about = conversation.random.choice(replies.FOLLOW_UPS)
    hero = story.hero
    facts = {"name": hero.name, "kind": hero.kind, "lesson": story.plot.lesson}
    question = fill(conversation.random.choice(about.questions), facts)
    conversation.exchange(question, fill(choose(conversation.random, about.answers), facts))


def _as_typed(random: Random, question: str) -> str:
    """The question, now and then without capitals or without its last mark."""
    if random.random() < CARELESS_SHARE:
        question = question.lower()
    if random.random() < CARELESS_SHARE:
        question = question.rstrip(".?!")
    return question


_TURNS: dict[Callable[[Conversation], None], int] = {
    _ask_story_about: 13,
    _ask_story: 2,
    _ask_story_about_unknown: 2,
    _small_talk: 6,
    _ask_unknown: 5,
    _ask_nonsense: 1,
}

_TURNS_AFTER_STORY: dict[Callable[[Conversation], None], int] = {
    _ask_another: 3,
    _ask_about_story: 3,
}
