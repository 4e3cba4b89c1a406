"""Checks the demo model in ctransformers, and in llama.cpp if ``xllamacpp`` is installed.

Run as ``python -m deployments.demo_model.verify``; neither needs PyTorch.
"""

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from ctypes import c_int
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import ctransformers
import gguf
import jinja2

from deployments.demo_model.chat import CHAT_TEMPLATE, render
from deployments.demo_model.corpus import write_texts
from deployments.demo_model.tokenizer import FIRST_BYTE, Tokenizer
from node.demo import MODEL_PATH

CONTEXT_TOKENS = 512
TEXTS = 2000
SPEED_TOKENS = 300
ODD_TEXTS = ("", " ", "  two  spaces ", "\n\nlines\n", "Zoé—café", "日本 😀", "</s>", "<|user|>")

Answer = Callable[[dict[str, Any]], str]


def main() -> None:
    """Print what was compared; exit with an error at the first difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_PATH)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    references = json.loads(Path(__file__).with_name("reference.json").read_text("utf-8"))
    tokenizer = read_tokenizer(options.model)
    llm = _open_ctransformers(options.model, options.threads)
    _check_template(references)
    _check_tokenizer(llm, tokenizer)
    _check_answers("ctransformers", references, lambda wanted: _answer(llm, wanted))
    if importlib.util.find_spec("xllamacpp"):
        _check_answers("llama.cpp", references, _open_llama_cpp(options.model))
    for threads in range(1, options.threads + 1):
        speed = _tokens_per_second(_open_ctransformers(options.model, threads))
        print(f"ctransformers decodes {speed:.0f} tokens/s with {threads} threads")


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer that the model file holds."""
    field = gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"]
    return Tokenizer(field.contents()[FIRST_BYTE + 256 :])


def _open_ctransformers(path: Path, threads: int) -> ctransformers.LLM:
    config = ctransformers.Config(context_length=CONTEXT_TOKENS, threads=threads)
    return ctransformers.LLM(model_path=str(path), model_type="llama", config=config)


def _check_template(references: list[dict[str, Any]]) -> None:
    environment = jinja2.Environment(autoescape=False)  # noqa: S701 - plain text, not HTML
    template = environment.from_string(CHAT_TEMPLATE)
    chats = [reference["messages"] for reference in references if "messages" in reference]
    for messages in chats:
        rendered = template.render(messages=messages, add_generation_prompt=True)
        _expect(rendered, render(messages, add_generation_prompt=True))
    print(f"chat template: {len(chats)} conversations render as in training")


def _check_tokenizer(llm: ctransformers.LLM, tokenizer: Tokenizer) -> None:
    texts = [*ODD_TEXTS, *write_texts(Random(99), TEXTS)]
    for text in filter(None, texts):
        _expect(_tokenize(llm, text), tokenizer.encode(text))
    print(f"tokenizer: {len(texts)} texts encode as in training")


def _tokenize(llm: ctransformers.LLM, text: str) -> list[int]:
    """The engine's tokens of the text without a beginning token.

    ``LLM.tokenize`` gives the library room for one token a character, which it overruns where a
    character becomes several byte tokens. A space, three bytes long inside, is the worst case.
    """
    encoded = text.encode()
    room = (c_int * (3 * len(encoded) + 3))()
    count = llm.ctransformers_llm_tokenize(encoded, False, room)
    return list(room[:count])


def _check_answers(engine: str, references: list[dict[str, Any]], answer: Answer) -> None:
    for reference in references:
        _expect(answer(reference), reference["answer"])
    print(f"{engine}: {len(references)} greedy answers equal those of PyTorch")


def _answer(llm: ctransformers.LLM, reference: dict[str, Any]) -> str:
    """The engine's greedy answer, one token longer than the reference if that has ended."""
    longest = len(reference["answer_tokens"]) + reference["finished"]
    answer = llm.generate(reference["prompt_tokens"], top_k=1, repetition_penalty=1.0)
    text: bytes = llm.detokenize(list(islice(answer, longest)), decode=False)
    return text.decode("utf-8", "replace")


def _open_llama_cpp(path: Path) -> Answer:
    """Greedy answers of llama.cpp, which tokenises and renders the prompts itself."""
    import xllamacpp  # noqa: PLC0415 - only here, because it may be missing

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.verbosity = CONTEXT_TOKENS, 1, 0
    params.cpuparams.n_threads = 2
    server = xllamacpp.Server(params)

    def answer(reference: dict[str, Any]) -> str:
        longest = len(reference["answer_tokens"]) + reference["finished"]
        limits = {"max_tokens": longest, "temperature": 0.0}
        if "messages" in reference:
            reply = server.handle_chat_completions({"messages": reference["messages"], **limits})
            return str(reply["choices"][0]["message"]["content"])
        reply = server.handle_completions({"prompt": reference["text"], **limits})
        return str(reply["choices"][0]["text"])

    return answer


def _tokens_per_second(llm: ctransformers.LLM) -> float:
    llm.eval([1])
    started = time.perf_counter()
    for _ in range(SPEED_TOKENS):
        llm.eval([llm.sample(top_k=1)])
    return SPEED_TOKENS / (time.perf_counter() - started)


def _expect(actual: object, expected: object) -> None:
    if actual != expected:
        message = f"got {actual!r}, expected {expected!r}"
        raise SystemExit(message)


if __name__ == "__main__":
    main()
