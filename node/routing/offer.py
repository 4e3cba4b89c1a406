"""What a node offers the mesh: its API, its machine and its models, as its adverts carry it.

A msgpack array in the payload of each advert. Fields are only ever added at the end with a
default, so that nodes of two versions can read each other.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

MODELS: Final = 64
"""Models that one offer may name; with as many the offer still fits an advert's payload."""
LARGEST_COUNT: Final = 2**53 - 1
LARGEST_AMOUNT: Final = 1e18

ModelState = Literal["unloaded", "loading", "ready", "failed"]

_PLAIN: Final = r"^[^\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]*\Z"
"""Nothing that breaks or turns a line around where the text is logged or shown."""

Name = Annotated[str, Meta(max_length=64, pattern=_PLAIN)]
Text = Annotated[str, Meta(max_length=256, pattern=_PLAIN)]
Count = Annotated[int, Meta(ge=0, le=LARGEST_COUNT)]
Amount = Annotated[float, Meta(ge=0, le=LARGEST_AMOUNT)]  # NaN is not within a range


class OfferedModel(msgspec.Struct, frozen=True, array_like=True):
    """A model that a node has, in memory or as a file that it can load."""

    model_id: Name
    state: ModelState
    layers: Count
    """0 while the node has not read the file's header yet, as with the size."""
    size_bytes: Count
    position_bytes: Count
    """Memory that each position of the context takes."""
    context_length: Count
    queued: Count
    in_flight: Count
    slots_busy: Count
    slots_total: Count
    fingerprint: Name = ""
    """Tells models of one name apart: the same for the same file; empty while it is not known."""


class Offer(msgspec.Struct, frozen=True, array_like=True):
    """What a node can do for the others."""

    api_url: Text
    engine: Name
    cpu_cores: Amount
    memory_bytes: Count
    """What the process may use at the most, models included."""
    max_layers: Count
    bytes_per_second: Amount
    """Weights read per second of decoding, as measured; 0 before the first answer."""
    models: Annotated[tuple[OfferedModel, ...], Meta(max_length=MODELS)] = ()


class UnreadableOfferError(ValueError):
    """A payload that is not an offer; the text says what is wrong and where."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Offer)
_model_decoder = msgspec.msgpack.Decoder(OfferedModel)
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeError, RecursionError)


def check_model(model: OfferedModel) -> None:
    """Check that peers can read a model's entry.

    Raises:
        ValueError: They would refuse it.
    """
    try:
        _model_decoder.decode(_encoder.encode(model))
    except (*_UNREADABLE, OverflowError) as error:
        raise ValueError(f"model {model.model_id!r}: {error}") from error


def pack_offer(offer: Offer) -> bytes:
    """Return the payload that carries an offer."""
    return _encoder.encode(offer)


def read_offer(payload: bytes) -> Offer:
    """Read a peer's payload.

    Raises:
        UnreadableOfferError: It is not an offer, or a value in it is out of bounds.
    """
    try:
        return _decoder.decode(payload)
    except _UNREADABLE as error:
        raise UnreadableOfferError(str(error)) from error
