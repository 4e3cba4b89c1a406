"""Runs the engine alone in a process, driven as the node's engine child drives it.

Standard input has one JSON object a line, with `prompt` and `max_tokens`. Each is answered with one
line: the number of tokens and the seconds until the first and the last.
"""

import json
import sys
import time
from typing import Final

from node.engine.ctransformers.library import CTransformersEngine
from node.engine.vocabulary import Vocabulary
from node.requests.request import Sampling

CHUNK_TOKENS: Final = 32
"""Prompt tokens that are evaluated at once, as `node.main` sets it for its engine child."""
GREEDY: Final = Sampling(temperature=0.0, top_k=40, top_p=0.95, repetition_penalty=1.0, seed=1)


def main(path: str, context_tokens: int, threads: int) -> None:
    """Answer until standard input ends."""
    engine = CTransformersEngine(path, context_tokens, threads, Vocabulary())
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(_generate(engine, asked["prompt"], asked["max_tokens"])), flush=True)


def _generate(engine: CTransformersEngine, prompt: str, max_tokens: int) -> dict[str, float]:
    began = time.perf_counter()
    position = _evaluate(engine, prompt)
    first_seconds = 0.0
    tokens = 0
    for generated in range(1, max_tokens + 1):
        token = engine.sample(GREEDY, position)
        if engine.is_end(token):
            break
        tokens = generated
        engine.text(token)
        first_seconds = first_seconds or time.perf_counter() - began
        if generated < max_tokens:
            engine.evaluate([token])
        position += 1
    return {
        "tokens": tokens,
        "first_seconds": first_seconds,
        "seconds": time.perf_counter() - began,
    }


def _evaluate(engine: CTransformersEngine, prompt: str) -> int:
    """Evaluate the prompt and return its length in tokens."""
    tokens = engine.tokenize(prompt, control_tokens=False)
    total = len(tokens)
    done = total - len(engine.rewind(tokens))
    while done < total:
        end = engine.chunk_end(done, total, CHUNK_TOKENS)
        engine.evaluate(tokens[done:end])
        done = end
    return total


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
