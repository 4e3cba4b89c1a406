"""Writes ``reference.json``: what the file's own weights say greedily, computed by PyTorch.

An engine that loads the file can be compared with it without PyTorch.
"""

import json
from pathlib import Path
from typing import TypedDict

import gguf
import numpy as np
import torch

from deployments.demo_model.chat import Message
from deployments.demo_model.corpus import encode_chat
from deployments.demo_model.export import gguf_name
from deployments.demo_model.model import Llama, Shape
from deployments.demo_model.tokenizer import BEGIN, END, Tokenizer

LONGEST_ANSWER_TOKENS = 64
# An answer is cut before the first choice that is this narrow (in logits): engines round
# differently, so they may differ from there on without being wrong. A guess that held so far.
NARROW_CHOICE = 0.05

PROMPTS = (
    "Once upon a time",
    "Long ago, there lived",
    "There once was a brave robot named Rusty. Rusty lived",
    "Once upon a time, there was a curious mouse named Milo. One windy day",
)
CONVERSATIONS: tuple[list[Message], ...] = (
    [{"role": "user", "content": "Hello"}],
    [{"role": "user", "content": "Who are you?"}],
    [{"role": "user", "content": "What can you do?"}],
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": "Tell me a story"}],
    [{"role": "user", "content": "Tell me a story about a fox"}],
    [{"role": "user", "content": "Write a story about a wizard."}],
    [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "I would like a story with a panda in it."},
    ],
    [
        {"role": "user", "content": "How are you?"},
        {"role": "assistant", "content": "I am very well, thank you!"},
        {"role": "user", "content": "story about an owl please"},
    ],
    [
        {"role": "user", "content": "Tell me a story about a cat."},
        {
            "role": "assistant",
            "content": "Once upon a time, there was a shy cat named Clara. Clara the cat lived in"
            " the tower of an old castle. Clara the cat had a secret: she was afraid of the dark."
            " One stormy night Clara heard a strange sound at the door. Tap, tap, tap. Her heart"
            " beat fast, but Clara took a candle and opened the door. It was only a firefly with"
            ' wet wings, cold and tired from the rain. "Come in and get warm," said Clara the cat.'
            " To say thank you, the firefly lit a small green light, and the dark was gone. From"
            " then on, Clara was not afraid of the dark any more.",
        },
        {"role": "user", "content": "Write a short tale about a robot."},
    ],
)


class Reference(TypedDict, total=False):
    """One prompt (``text`` or ``messages``) and the greedy answer to it.

    ``finished`` tells whether the end token came; if not, the answer is only its beginning.
    """

    text: str
    messages: list[Message]
    prompt_tokens: list[int]
    answer: str
    answer_tokens: list[int]
    finished: bool


def write_reference(path: Path, model_path: Path, tokenizer: Tokenizer, shape: Shape) -> None:
    """Answer every prompt with the weights of the model file and write the answers."""
    model = read_model(model_path, shape)
    references: list[Reference] = []
    for text in PROMPTS:
        tokens = [BEGIN, *tokenizer.encode(text)]
        references.append({"text": text, **_answered(model, tokenizer, tokens)})
    for messages in CONVERSATIONS:
        tokens = encode_chat(tokenizer, messages, add_generation_prompt=True)
        references.append({"messages": messages, **_answered(model, tokenizer, tokens)})
    lines = ",\n".join(json.dumps(reference, ensure_ascii=False) for reference in references)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def read_model(path: Path, shape: Shape) -> Llama:
    """The model with the weights that the file holds, dequantised."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    model = Llama(shape)
    weights = {}
    for name in model.state_dict():
        tensor = tensors[gguf_name(name)]
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        weights[name] = torch.from_numpy(np.array(values, dtype=np.float32))
    model.load_state_dict(weights)
    return model.eval()


def _answered(model: Llama, tokenizer: Tokenizer, prompt: list[int]) -> Reference:
    answer, finished = answer_greedily(model, prompt)
    return {
        "prompt_tokens": prompt,
        "answer": tokenizer.decode(answer),
        "answer_tokens": answer,
        "finished": finished,
    }


@torch.inference_mode()
def answer_greedily(
    model: Llama, prompt: list[int], longest: int = LONGEST_ANSWER_TOKENS
) -> tuple[list[int], bool]:
    """The likeliest tokens up to the end token, a narrow choice or the limit; and if it ended."""
    answer: list[int] = []
    while len(answer) < longest:
        logits = model(torch.tensor([prompt + answer]))[0, -1]
        best, second = torch.topk(logits, 2).values.tolist()
        if best - second < NARROW_CHOICE:
            return answer, False
        token = int(logits.argmax())
        if token == END:
            return answer, True
        answer.append(token)
    return answer, False
