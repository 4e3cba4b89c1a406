"""Where an engine elsewhere is: `https://host/v1#model`, with a key and CAs from files."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from node.errors import StartupError
from shared.secret import parse_bearer_tokens

_SCHEMES: Final = ("http", "https")


@dataclass(frozen=True)
class Address:
    """A model on a server that others run."""

    url: str
    """URL below which the server has OpenAI's paths, without a slash at its end."""
    model: str
    """The server's name for the model."""
    key_file: Path | None = None
    """File of the key that the server requires."""
    ca_file: Path | None = field(default=None, compare=False)
    """Trusted CAs of its certificate; None for the system's."""

    @property
    def name(self) -> str:
        """The model's name without its owner, like the name of a file."""
        return self.model.rpartition("/")[2]

    def __str__(self) -> str:
        """Return the text that `parse_address` reads."""
        return f"{self.url}#{self.model}"

    def read_key(self) -> str:
        """Return the key, the first one in its file; empty without a file.

        Raises:
            StartupError: The file contains no key, or cannot be read.
        """
        if self.key_file is None:
            return ""
        try:
            return parse_bearer_tokens(self.key_file.read_bytes())[0]
        except OSError as error:
            raise StartupError(f"key-file {self.key_file}: {error.strerror}") from error
        except ValueError as error:
            raise StartupError(f"key-file {self.key_file}: {error}") from error


def is_address(text: str) -> bool:
    """Return whether a text names a server, not a file."""
    return text.partition("://")[0].lower() in _SCHEMES and "://" in text


def parse_address(text: str, key_file: Path | None, ca_file: Path | None) -> Address:
    """Parse the address of a model.

    Raises:
        ValueError: It is not a URL with a model, or would show the key to the network.
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError as error:
        raise ValueError(f"{text!r} is not a URL: {error}") from error
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL must not contain a password: put the key into a file, key-file=")
    if not host or parts.query or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{text!r} is not http(s)://host/v1#model")
    if not parts.fragment:
        raise ValueError(f"{text!r} names no model: add #model, as the server's /models lists it")
    if parts.scheme == "http" and key_file is not None and not is_loopback(host):
        raise ValueError(
            f"a key over http:// to {host} could be read on the network: use https://, "
            "or a tunnel that ends on this machine"
        )
    return Address(_base(parts), parts.fragment, key_file, ca_file)


def is_loopback(host: str) -> bool:
    """Return whether a URL's host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _base(parts: SplitResult) -> str:
    return parts._replace(fragment="").geturl().rstrip("/")
