"""Repeats an answer that another engine began, up to where it was lost; no I/O.

The last bits of a token's logits depend on which tokens were evaluated in one step. So an answer
continues token for token only if its tokens are drawn again one by one, with the same random
numbers.
"""

from collections import deque
from collections.abc import Sequence

from node.engine.protocol import Evaluated, Result, Sampled


class PartedError(Exception):
    """The answer does not repeat: it began on another machine, or with another part cached."""


class Replay:
    """Checks repeated tokens and turns them into progress; passes on what follows.

    Args:
        prior: The tokens to repeat.
        prompt_tokens: The length of the prompt.
    """

    def __init__(self, prior: Sequence[int], prompt_tokens: int) -> None:
        self._missing = deque(prior)
        self._total = prompt_tokens + len(prior)

    def take(self, results: list[Result]) -> list[Result]:
        """Return the results for the caller.

        Raises:
            PartedError: A token is not the one that was drawn before.
        """
        return list(map(self._take_one, results))

    def finish(self) -> None:
        """Check that the answer did not end early.

        Raises:
            PartedError: It is shorter than before.
        """
        if self._missing:
            raise PartedError

    def _take_one(self, result: Result) -> Result:
        match result:
            case Evaluated(request, done, _, cached):
                return Evaluated(request, done, self._total, cached)
            case Sampled(request, token) if self._missing:
                if token != self._missing.popleft():
                    raise PartedError
                return Evaluated(request, self._total - len(self._missing), self._total, 0)
        return result
