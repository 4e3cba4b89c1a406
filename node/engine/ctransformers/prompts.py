"""A prompt as the model's tokens and as text: a chat by the model's template, in the child."""

from collections.abc import Sequence
from typing import Final

from node.engine.chat import ChatRefusedError, marked, render_chat
from node.engine.ctransformers.library import CTransformersEngine
from node.engine.marks import Marker, without_marks
from node.engine.vocabulary import Vocabulary
from node.requests.request import Chat, Prompt

_END_TOKENS: Final = 12
"""Tokens in which a prompt's last mark is, even if each has one character."""


class Prompts:
    """Reads prompts for one loaded model.

    Args:
        engine: Has the model's tokens.
        vocabulary: The template and the named tokens of the model's file.
    """

    def __init__(self, engine: CTransformersEngine, vocabulary: Vocabulary) -> None:
        self._engine = engine
        self._vocabulary = vocabulary
        self._marker = Marker(vocabulary.control)

    def tokenize(self, prompt: Prompt) -> list[int]:
        """Return the tokens of a prompt.

        Raises:
            ChatRefusedError: The model's template refuses it, it has no tokens, or one of its
                tokens is not the model's.
        """
        if isinstance(prompt, str):
            tokens = self._engine.tokenize(prompt, control_tokens=False)
        elif isinstance(prompt, Chat):
            tokens = self._engine.tokenize(self._render(prompt), control_tokens=True)
        else:
            tokens = self._check(prompt)
        if not tokens:
            raise ChatRefusedError("the prompt is empty: this model needs a text to continue")
        return tokens

    def text(self, prompt: Prompt) -> str:
        """Return a prompt as text.

        Raises:
            ChatRefusedError: The model's template refuses it.
        """
        if isinstance(prompt, Chat):
            return without_marks(self._render(prompt))
        return prompt if isinstance(prompt, str) else self.join(prompt)

    def join(self, tokens: Sequence[int]) -> str:
        """Return tokens as text."""
        return b"".join(map(self._engine.text, tokens)).decode(errors="replace")

    def end(self, tokens: Sequence[int]) -> str:
        """Return the last characters of a prompt."""
        return b"".join(map(self._engine.text, tokens[-_END_TOKENS:])).decode(errors="ignore")

    def _render(self, chat: Chat) -> str:
        known = self._vocabulary
        return render_chat(
            known.template,
            chat.turns,
            special={**marked(chat.options, self._marker), **known.special},
            marker=self._marker,
        )

    def _check(self, tokens: Sequence[int]) -> list[int]:
        known = self._engine.vocabulary_size
        if (foreign := next((token for token in tokens if token >= known), None)) is not None:
            message = f"the prompt has the token {foreign}; this model's tokens end at {known - 1}"
            raise ChatRefusedError(message)
        return list(tokens)
