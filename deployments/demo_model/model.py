"""The llama architecture in PyTorch, laid out as GGUF stores it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

INITIAL_DEVIATION = 0.02


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; widths are multiples of 32, the block of q8_0."""

    vocabulary: int = 1280
    context: int = 512
    width: int = 160
    hidden_width: int = 448
    layers: int = 6
    heads: int = 5
    norm_epsilon: float = 1e-5
    rotation_base: float = 10_000.0

    @property
    def head_width(self) -> int:
        """Numbers in one head, all of them rotated."""
        return self.width // self.heads


class Llama(nn.Module):
    """Decoder-only transformer (Touvron et al. 2023, https://arxiv.org/abs/2302.13971)."""

    turns: Tensor

    def __init__(self, shape: Shape) -> None:
        """Give every matrix small random weights; norms start at one."""
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, shape.norm_epsilon)
        self.output = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.register_buffer("turns", _turns(shape), persistent=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=INITIAL_DEVIATION)
        # Wide apart from the start: from near zero the names grew alike (cosine 0.77 at step 620
        # of an earlier training) and were mixed up.
        nn.init.normal_(self.embedding.weight)

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """Logits [batch, time, vocabulary] for tokens [batch, time].

        ``documents`` [batch, time] numbers the document of each token; a token sees only the
        earlier tokens of its own document, or every earlier token where it is not given.
        """
        mask = None if documents is None else _mask(documents)
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden, self.turns[: tokens.shape[1]], mask)
        logits: Tensor = self.output(self.norm(hidden))
        return logits


class Block(nn.Module):
    """One layer: attention and a gated feed-forward part, each after a norm."""

    def __init__(self, shape: Shape) -> None:
        """Names follow GGUF's: ``attn_q``, ``ffn_gate`` and so on."""
        super().__init__()
        self.shape = shape
        width, hidden = shape.width, shape.hidden_width
        self.attn_norm = nn.RMSNorm(width, shape.norm_epsilon)
        self.attn_q = nn.Linear(width, width, bias=False)
        self.attn_k = nn.Linear(width, width, bias=False)
        self.attn_v = nn.Linear(width, width, bias=False)
        self.attn_output = nn.Linear(width, width, bias=False)
        self.ffn_norm = nn.RMSNorm(width, shape.norm_epsilon)
        self.ffn_gate = nn.Linear(width, hidden, bias=False)
        self.ffn_up = nn.Linear(width, hidden, bias=False)
        self.ffn_down = nn.Linear(hidden, width, bias=False)

    def forward(self, hidden: Tensor, turns: Tensor, mask: Tensor | None) -> Tensor:
        """The layer's output, of the shape [batch, time, width] of its input."""
        hidden = hidden + self._attend(self.attn_norm(hidden), turns, mask)
        normed = self.ffn_norm(hidden)
        gated = functional.silu(self.ffn_gate(normed)) * self.ffn_up(normed)
        return hidden + self.ffn_down(gated)  # type: ignore[no-any-return]

    def _attend(self, hidden: Tensor, turns: Tensor, mask: Tensor | None) -> Tensor:
        query = _rotate(self._heads(self.attn_q(hidden)), turns)
        key = _rotate(self._heads(self.attn_k(hidden)), turns)
        value = self._heads(self.attn_v(hidden))
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None
        )
        joined = mixed.transpose(1, 2).flatten(2)
        return self.attn_output(joined)  # type: ignore[no-any-return]

    def _heads(self, vectors: Tensor) -> Tensor:
        """[batch, time, width] as [batch, heads, time, head width]."""
        batch, time, _ = vectors.shape
        return vectors.view(batch, time, self.shape.heads, -1).transpose(1, 2)


def _turns(shape: Shape) -> Tensor:
    """Unit complex numbers [context, head width / 2]: RoPE, https://arxiv.org/abs/2104.09864."""
    exponents = torch.arange(0, shape.head_width, 2) / shape.head_width
    angles = torch.outer(torch.arange(shape.context), shape.rotation_base**-exponents)
    return torch.polar(torch.ones_like(angles), angles)


def _rotate(vectors: Tensor, turns: Tensor) -> Tensor:
    """Rotate adjacent pairs, the layout that GGUF's llama expects, so nothing is permuted later."""
    pairs = torch.view_as_complex(vectors.float().reshape(*vectors.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(-2).to(vectors.dtype)


def _mask(documents: Tensor) -> Tensor:
    """Booleans [batch, 1, time, time]: may the row's token see the column's."""
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same.tril()
