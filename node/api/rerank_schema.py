"""The body and the answer of `/v1/rerank`, as in Jina, Cohere, llama.cpp and vLLM."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from node.api.schema import MAX_INPUTS, Body, PromptUsage


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document as an object."""

    text: str


class RerankRequest(Body, frozen=True, kw_only=True):
    """Body of `POST /v1/rerank`."""

    query: str
    documents: Annotated[list[str | Document], msgspec.Meta(min_length=1, max_length=MAX_INPUTS)]
    top_n: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How many results to return; all by default."""
    return_documents: bool | None = None
    """Whether each result repeats its document."""

    def texts(self) -> list[str]:
        """Return the documents' texts."""
        return [one if isinstance(one, str) else one.text for one in self.documents]

    def ranked(self, scores: Sequence[float]) -> list["Ranked"]:
        """Return the results that are wanted, the best first.

        Args:
            scores: The score of each document.
        """
        shown = [Document(text) if self.return_documents else None for text in self.texts()]
        results = [
            Ranked(number, *one) for number, one in enumerate(zip(scores, shown, strict=True))
        ]
        results.sort(key=lambda one: (-one.relevance_score, one.index))
        return results[: self.top_n]


class Ranked(msgspec.Struct, frozen=True, omit_defaults=True):
    """One document's result."""

    index: int
    """Its place among the documents of the request."""
    relevance_score: float
    """As the model computes it; only the order is comparable between models."""
    document: Document | None = None


class Ranking(msgspec.Struct, frozen=True):
    """Answer of `POST /v1/rerank`: the best documents first."""

    model: str
    results: list[Ranked]
    usage: PromptUsage
    object: Literal["list"] = "list"
