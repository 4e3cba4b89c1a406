"""Trains the demo model and writes it with its reference answers.

Run as ``python -m deployments.demo_model.train --out node/demo/demo.gguf``.
"""

import argparse
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional

from deployments.demo_model.corpus import IGNORED, Row, pack_rows, write_texts
from deployments.demo_model.export import write_gguf
from deployments.demo_model.model import Llama, Shape
from deployments.demo_model.reference import write_reference
from deployments.demo_model.tokenizer import Tokenizer, train_pieces
from deployments.demo_model.words import HEROES
from node.demo import MODEL_PATH

TOKENIZER_DOCUMENTS = 4000
PEAK_RATE = 3e-3
LAST_RATE_SHARE = 0.02
WARMUP_SHARE = 0.05
WEIGHT_DECAY = 0.1
GRADIENT_LIMIT = 1.0
REPORT_STEPS = 25
SAVE_STEPS = 100


def main() -> None:
    """Train from nothing and write the model and ``reference.json`` beside this script.

    The model is also written every ``SAVE_STEPS``; SIGTERM ends the training early.
    """
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    random = Random(options.seed)
    started = time.monotonic()
    shape = Shape()
    tokenizer = _train_tokenizer(random, shape.vocabulary)
    rows = pack_rows(random, tokenizer, options.steps * options.batch_rows, shape.context)
    model = Llama(shape)
    loss = train(model, rows, options.batch_rows, lambda: write_gguf(options.out, model, tokenizer))
    write_reference(Path(__file__).with_name("reference.json"), options.out, tokenizer, shape)
    minutes = (time.monotonic() - started) / 60
    print(f"{options.steps} steps, final loss {loss:.4f}, {minutes:.1f} minutes")


def train(model: Llama, rows: list[Row], batch_rows: int, save: Callable[[], None]) -> float:
    """Train once over the rows; the mean loss (nats a learned token) of the last steps."""
    optimizers = _optimizers(model)
    steps = len(rows) // batch_rows
    losses: list[float] = []
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stops.append(number))
    for step, (tokens, targets, documents) in enumerate(_batches(rows, batch_rows)):
        if stops:
            break
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(tokens, documents)
        loss = functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED
        )
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_LIMIT)
        for optimizer in optimizers:
            _update(optimizer, _rate(step, steps))
        losses.append(loss.item())
        if step % REPORT_STEPS == 0:
            print(f"step {step} of {steps}: loss {_recent(losses):.4f}", flush=True)
        if step % SAVE_STEPS == 0:
            save()
    save()
    return _recent(losses)


def _train_tokenizer(random: Random, vocabulary_size: int) -> Tokenizer:
    texts = write_texts(random, TOKENIZER_DOCUMENTS)
    whole_words = [word for hero in HEROES for word in (hero.kind, hero.name)]
    return Tokenizer(train_pieces(texts, vocabulary_size, whole_words))


def _recent(losses: list[float]) -> float:
    last = losses[-REPORT_STEPS:]
    return sum(last) / len(last)


def _optimizers(model: Llama) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest.

    After 75 steps the loss was 1.55 with Muon (https://arxiv.org/abs/2502.16982) against 2.32
    with AdamW alone.
    """
    matrices = [parameter for parameter in model.blocks.parameters() if parameter.dim() > 1]
    chosen = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    return [
        torch.optim.Muon(matrices, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _update(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()


def _batches(rows: list[Row], batch_rows: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Tokens, targets and document numbers, each [batch, time]."""
    for start in range(0, len(rows) - batch_rows + 1, batch_rows):
        batch = rows[start : start + batch_rows]
        yield (
            torch.tensor([row.tokens for row in batch]),
            torch.tensor([row.targets for row in batch]),
            torch.tensor([row.documents for row in batch]),
        )


def _rate(step: int, steps: int) -> float:
    """Learning rate: a linear rise, then half a cosine down to a small share of the peak."""
    warmup = max(1, round(steps * WARMUP_SHARE))
    if step < warmup:
        return PEAK_RATE * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    low = PEAK_RATE * LAST_RATE_SHARE
    return low + (PEAK_RATE - low) * 0.5 * (1 + math.cos(math.pi * progress))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL_PATH, help="where the model goes")
    parser.add_argument("--steps", type=int, default=1000, help="steps of training")
    parser.add_argument("--batch-rows", type=int, default=4, help="rows of 512 tokens a step")
    parser.add_argument("--seed", type=int, default=20, help="seed of corpus and weights")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    return parser.parse_args()


if __name__ == "__main__":
    main()
