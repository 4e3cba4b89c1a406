"""The condition of what the exporter depends on, as its own gauges show it."""

from dataclasses import dataclass


@dataclass
class Storage:
    """The condition of the state directory."""

    durable: bool = False
    failure: str = ""
    """Why it is not durable."""
    journal_bytes: int = 0
    disk_free_bytes: int = 0
    disk_total_bytes: int = 0
    """Of the disk that the directory is on; 0 while it is not known."""


@dataclass
class WebCondition:
    """The condition of the exporter's own port."""

    config_valid: bool | None = None
    """Whether the current web configuration file is in use; None without a file."""
    certificate_expires_at: float | None = None
    """Unix time at which the port's certificate expires; None without TLS."""
