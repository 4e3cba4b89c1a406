"""What the process that fetches a file tells the node: one JSON object a line."""

import msgspec


class Moved(msgspec.Struct, frozen=True, tag="moved"):
    """So much of the file is here; sent a few times a second."""

    done_bytes: int
    total_bytes: int


class Noted(msgspec.Struct, frozen=True, tag="noted"):
    """Something that an operator may want to know."""

    text: str


class Fetched(msgspec.Struct, frozen=True, tag="fetched"):
    """The file is here and whole. The last report."""

    path: bytes
    """As the system has it: the cache's directory need not have a name in UTF-8."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The file cannot be had: the cause and the remedy in one line. The last report."""

    message: str


Report = Moved | Noted | Fetched | Failed
decoder = msgspec.json.Decoder(Report)
