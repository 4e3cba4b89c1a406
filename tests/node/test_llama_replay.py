"""An answer is repeated up to where it was lost, and only what follows is passed on."""

import pytest

from node.engine.llama_cpp.replay import PartedError, Replay
from node.engine.protocol import Evaluated, Sampled


def test_repeated_tokens_are_progress_and_new_ones_tokens() -> None:
    """The caller sees the prior tokens as a part of the prompt, which is evaluated."""
    replay = Replay([5, 6], 3)
    taken = replay.take([Evaluated(1, 3, 3, 0), *(Sampled(1, token, b"x") for token in (5, 6, 7))])
    assert taken == [
        Evaluated(1, 3, 5, 0),
        Evaluated(1, 4, 5, 0),
        Evaluated(1, 5, 5, 0),
        Sampled(1, 7, b"x"),
    ]
    replay.finish()


def test_other_token_is_noticed() -> None:
    """An answer that is another one, or shorter, is not passed on."""
    replay = Replay([5, 6], 3)
    replay.take([Sampled(1, 5, b"x")])
    with pytest.raises(PartedError):
        replay.finish()
    with pytest.raises(PartedError):
        replay.take([Sampled(1, 7, b"x")])
