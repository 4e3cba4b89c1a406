"""The telemetry protocol: one request and one reply on the nng socket.

A request is a `Batch` and a reply a `Reply`, both msgpack arrays. The protocol number increases
only when an older reader would misread a newer batch. New fields at the end do not change it.
"""

from typing import Final

import msgspec

PROTOCOL: Final = 1
BATCH_BYTES: Final = 256 * 1024
"""Size limit of a batch's events, well below `MESSAGE_BYTES`."""
EVENT_BYTES: Final = 16 * 1024
"""The node drops larger events; no real event comes close."""
MESSAGE_BYTES: Final = 1024 * 1024
"""The exporter's message limit. Beyond it nng closes the connection silently and the sender retries
forever, so batches must stay far below it."""
SESSION_CHARACTERS: Final = 64
HEARTBEAT_SECONDS: Final = 1.0
"""The longest time between two batches; a batch without events is empty."""
SOCKET_NAME: Final = "telemetry.sock"
SOCKET_PATH_BYTES: Final = 107
"""The longest path of a Unix socket on Linux (`sun_path` is 108 bytes, the last one NUL)."""


class Batch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Consecutive events of one node's session, with the totals as of the last event.

    `emitted` counts every event of the session up to this batch, including dropped ones, so that
    `emitted == applied + dropped` holds at the exporter if nothing was lost.
    """

    protocol: int
    node_id: str
    session: str
    """New at each start of the node."""
    first_sequence: int
    """Number of the first event in this batch, or of the next event if it is empty. Starts at 1."""
    emitted: int
    dropped: dict[str, int]
    """Totals of the session, by reason."""
    age_seconds: float
    """Age of the oldest event when the batch was built, by the node's clock."""
    goodbye: bool
    """Whether this is the last batch of a session that ends cleanly."""
    events: msgspec.Raw
    """A msgpack array of events, undecoded, so that one unknown event does not invalidate the
    others."""


class Reply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The exporter's reply to a batch."""

    protocol: int
    applied: int
    """The session's highest sequence number that is counted."""
    durable: bool
    levels_wanted: bool
    """Whether the node must resend all levels, because the exporter lacks this session's."""
    error: str
    """Empty, or the reason for refusing the batch: `malformed`, `protocol`, or `conflict` while
    another live node has the same name. After a conflict the node keeps the batch and retries."""
    page_url: str = ""
    """Where the exporter's status page listens, for the node's advert."""


def pack_events(count: int, encoded: bytes | bytearray) -> bytes:
    """Return `count` encoded events behind the header of a msgpack array (format `array 32`)."""
    return b"\xdd" + count.to_bytes(4, "big") + encoded


def array_content(array: bytes) -> bytes:
    """Return the encoded elements of a msgpack array, without its header.

    Args:
        array: With a header of the formats `fixarray`, `array 16` or `array 32`.
    """
    return array[{0xDC: 3, 0xDD: 5}.get(array[0], 1) :]
