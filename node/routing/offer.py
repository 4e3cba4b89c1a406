"""What a node offers the mesh in its adverts: its API, its machine and its models.

A msgpack array in the payload of each advert. Fields are only added at the end, with a default, so
that nodes of different versions can read each other.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from node.mesh.messages import NodeId

MODELS: Final = 64
"""Limit of models in an offer. With as many, it still fits in an advert's payload."""
STAGES: Final = 17
"""Limit of stages in an offer: one model on as many devices as llama.cpp allows."""
LARGEST_COUNT: Final = 2**53 - 1
LARGEST_AMOUNT: Final = 1e18

StageState = Literal["loading", "up"]
ModelState = Literal["unloaded", "loading", "ready", "failed"]

_PLAIN: Final = r"^[^\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]*\Z"
"""Text without characters that break or reverse a line in logs or on screens."""

Name = Annotated[str, Meta(max_length=64, pattern=_PLAIN)]
Text = Annotated[str, Meta(max_length=256, pattern=_PLAIN)]
Count = Annotated[int, Meta(ge=0, le=LARGEST_COUNT)]
Amount = Annotated[float, Meta(ge=0, le=LARGEST_AMOUNT)]  # this range excludes NaN


class OfferedModel(msgspec.Struct, frozen=True, array_like=True):
    """A model of a node, in memory or as a file that the node can load."""

    model_id: Name
    state: ModelState
    layers: Count
    """0 until the node has read the file's header; the same for the size."""
    size_bytes: Count
    position_bytes: Count
    """Memory per position of the context, of all slots together."""
    context_length: Count
    queued: Count
    in_flight: Count
    slots_busy: Count
    slots_total: Count
    fingerprint: Name = ""
    """Distinguishes models of the same name: equal for the same file; empty while unknown."""
    held_bytes: Count = 0
    """All the memory that it takes on this node; 0 while it is not loaded."""
    elsewhere: bool = False
    """Whether another node serves it for this one, because it does not fit here."""


class OfferedStage(msgspec.Struct, frozen=True, array_like=True):
    """The layers of a split model that one node holds; the coordinator offers all stages."""

    model_id: Name
    node_id: NodeId
    first: Count
    layers: Count
    """0 for a coordinator that has only the embedding."""
    memory_bytes: Count
    state: StageState = "loading"


class Offer(msgspec.Struct, frozen=True, array_like=True):
    """What a node can do for the others."""

    api_url: Text
    engine: Name
    cpu_cores: Amount
    memory_bytes: Count
    """Limit of the process's memory, loaded models included."""
    max_layers: Count
    bytes_per_second: Amount
    """Weights read per second of decoding, as measured; 0 before the first answer."""
    models: Annotated[tuple[OfferedModel, ...], Meta(max_length=MODELS)] = ()
    page_url: Text = ""
    """The status page of the node's exporter; empty while it is unknown."""
    rpc_build: Text = ""
    """Build of the worker for models that are split over nodes; empty without one. A pipeline needs
    equal builds."""
    stages: Annotated[tuple[OfferedStage, ...], Meta(max_length=STAGES)] = ()
    """Of the split models that this node coordinates."""


class UnreadableOfferError(ValueError):
    """A payload is not an offer. The text says what is wrong and where."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Offer)
_model_decoder = msgspec.msgpack.Decoder(OfferedModel)
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeError, RecursionError)


def check_model(model: OfferedModel) -> None:
    """Check that peers can read a model's entry.

    Raises:
        ValueError: Peers would refuse it.
    """
    try:
        _model_decoder.decode(_encoder.encode(model))
    except (*_UNREADABLE, OverflowError) as error:
        raise ValueError(f"model {model.model_id!r}: {error}") from error


def pack_offer(offer: Offer) -> bytes:
    """Return an offer's payload."""
    return _encoder.encode(offer)


def read_offer(payload: bytes) -> Offer:
    """Read a peer's payload.

    Raises:
        UnreadableOfferError: It is not an offer, or one of its values is out of range.
    """
    try:
        return _decoder.decode(payload)
    except _UNREADABLE as error:
        raise UnreadableOfferError(str(error)) from error
