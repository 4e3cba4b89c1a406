"""What a model's file says of itself, as plain values: all that the node needs before an engine.

Everything here comes from a file that may be hostile: it was checked against the file's size.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cache:
    """What a model keeps in memory of the text so far, in 16-bit floats."""

    position_bytes: int
    """Per position, in the layers that see the whole context."""
    window: int = 0
    """Positions that the other layers see."""
    window_position_bytes: int = 0
    """Per position of the window."""
    state_bytes: int = 0
    """Per sequence, whatever its length (recurrent layers)."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One model's file, or all parts of a split one."""

    kind: str
    """`model`, or what else the file is (`general.type`)."""
    architecture: str
    tokenizer: str
    """GGUF's name for the kind of tokenizer."""
    types: tuple[str, ...]
    """The weight types in the file."""
    quantization: str
    """The type of most of the weights, by which people name the file."""
    claimed_layers: int
    """Layers by its header; `layer_bytes` has those that it contains."""
    layer_bytes: tuple[int, ...]
    """Weights of each layer, in order."""
    embedding_bytes: int
    """The weights before the first layer."""
    output_bytes: int
    """The weights after the last layer."""
    is_tied: bool
    """Whether the output after the last layer uses the embedding too."""
    context_length: int
    """Positions in its training; 0 if unknown."""
    tokens: int
    """Size of the vocabulary."""
    width: int
    """Numbers per position between two layers."""
    hidden_width: int
    """Numbers per position inside a layer, or inside one of its experts."""
    experts_used: int
    """Experts per position; 1 for a model without experts."""
    cache: Cache
    embeds: bool
    """Whether it makes vectors or scores of texts, not texts."""
    ranks: bool
    """Whether it scores documents for a query."""
    parts: int
    """In how many files it is."""
    fingerprint: str
    """Equal for the same file, different for other weights."""

    @property
    def size_bytes(self) -> int:
        """The size of all weights together."""
        return self.embedding_bytes + sum(self.layer_bytes) + self.output_bytes
