"""The reports of the download process to the node: one JSON object per line."""

import msgspec


class Moved(msgspec.Struct, frozen=True, tag="moved"):
    """This much of the file is here; sent a few times a second."""

    done_bytes: int
    total_bytes: int


class Noted(msgspec.Struct, frozen=True, tag="noted"):
    """A note for the operator."""

    text: str


class Fetched(msgspec.Struct, frozen=True, tag="fetched"):
    """The file is here and complete. The last report."""

    path: bytes
    """As the system has it: the path of the cache need not be UTF-8."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The file cannot be downloaded: cause and remedy in one line. The last report."""

    message: str


Report = Moved | Noted | Fetched | Failed
decoder = msgspec.json.Decoder(Report)
