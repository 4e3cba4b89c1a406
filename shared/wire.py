"""The telemetry protocol: what one request and one reply on the nng socket carry.

A request is a `Batch`, a reply a `Reply`, both msgpack arrays. The protocol number goes up only
when an older reader would misread a newer batch; new fields at the end do not change it.
"""

from typing import Final

import msgspec

PROTOCOL: Final = 1
BATCH_BYTES: Final = 256 * 1024
"""A batch's events are limited to this size, well below `MESSAGE_BYTES`."""
EVENT_BYTES: Final = 16 * 1024
"""A larger event is dropped at the node: no real one comes close."""
MESSAGE_BYTES: Final = 1024 * 1024
"""The exporter's limit for a message. Beyond it nng closes the connection without notice and the
sender re-sends forever, so batches must stay far below."""
SESSION_CHARACTERS: Final = 64
HEARTBEAT_SECONDS: Final = 1.0
"""A batch is sent at least this often, empty if nothing happened."""
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
    """Number of the first event here, or of the next one if there is none. Starts at 1."""
    emitted: int
    dropped: dict[str, int]
    """Totals of the session, by reason."""
    age_seconds: float
    """How long the oldest event here had waited when the batch was built, by the node's clock."""
    goodbye: bool
    """Whether this is the last batch of a session that ends cleanly."""
    events: msgspec.Raw
    """A msgpack array of events. Raw, so that one unknown event does not cost the others."""


class Reply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The exporter's reply to a batch."""

    protocol: int
    applied: int
    """The highest sequence number of the session that is counted."""
    durable: bool
    levels_wanted: bool
    """The exporter lacks this session's levels: the node must send all of them again."""
    error: str
    """Empty, or why the batch was refused: `malformed`, `protocol`, or `conflict` while another
    live node has the same name; on a conflict the node keeps the batch and retries."""


def pack_events(count: int, encoded: bytes | bytearray) -> bytes:
    """Return `count` encoded events behind the header of a msgpack array (format `array 32`)."""
    return b"\xdd" + count.to_bytes(4, "big") + encoded
