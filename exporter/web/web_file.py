"""What a web configuration file sets up, kept up to date with the file and those that it names."""

import logging
import math
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from exporter.metrics.conditions import WebCondition
from exporter.web.passwords import Passwords
from exporter.web.tls import find_expiry, make_context
from exporter.web.web_config import FILE_BYTES, WebConfigError, WebFile, named_files, parse
from shared.runtime.follow import FollowedFiles

FLAG: Final = "--web-config-file"

_log = logging.getLogger(__name__)


class TokenBucket:
    """Admits requests at a rate, and a burst of them after a pause.

    Args:
        interval_seconds: Time in which one more request may come.
        burst: Requests that may come at once.
    """

    def __init__(self, interval_seconds: float, burst: int) -> None:
        self.interval_seconds = interval_seconds
        self._burst = burst
        self._tokens = float(burst)
        self._counted_at = -math.inf

    def take(self) -> bool:
        """Return whether a request may come now, and count it if so."""
        now = trio.current_time()
        grown = (now - self._counted_at) / self.interval_seconds
        self._tokens = min(self._burst, self._tokens + grown)
        self._counted_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass(frozen=True, kw_only=True)
class Web:
    """What a file sets up; the defaults are those without a file.

    Attributes:
        tls: The context for new connections; None for plain HTTP.
        expires_at: Unix time at which its certificate expires; None if that is not known.
        requires_client: Whether clients need a certificate.
        client_names: The names of which a client's certificate must have one; empty for any.
        passwords: The users; None if no password is required.
        limit: The limit of requests; None for no limit.
        headers: Added to each response.
    """

    tls: ssl.SSLContext | None = None
    expires_at: float | None = None
    requires_client: bool = False
    client_names: frozenset[str] = frozenset()
    passwords: Passwords | None = None
    limit: TokenBucket | None = None
    headers: tuple[tuple[str, str], ...] = ()


class FollowedWeb:
    """What the file sets up now.

    Args:
        path: The file; None for the defaults.
        condition: Shows whether the file can be used.

    Raises:
        WebConfigError: It cannot be used. The text names the flag.
    """

    def __init__(self, path: Path | None, condition: WebCondition) -> None:
        self.current = Web()
        self._path = path
        self._condition = condition
        self._files = FollowedFiles([path] if path else [])
        if path is not None:
            self._use(self._read(path))

    @property
    def tls(self) -> Callable[[], ssl.SSLContext] | None:
        """What returns the context for the next connection; None for plain HTTP."""
        first = self.current.tls
        return None if first is None else lambda: self.current.tls or first

    async def follow(self) -> None:
        """Read the files again after each change. Runs until cancelled; ends without a file.

        If they cannot be used, the previous configuration stays.
        """
        if self._path is not None:
            await self._files.run(self._reload)

    def _reload(self) -> None:
        path = self._path
        if path is None:
            return
        try:
            web = self._read_again(path)
        except WebConfigError as error:
            self._condition.config_valid = False
            _log.error("%s; the previous configuration stays in use", error)
            return
        self._use(web)
        _log.info("%s %s reloaded", FLAG, path)

    def _use(self, web: Web) -> None:
        self.current = web
        self._condition.config_valid = True
        self._condition.certificate_expires_at = web.expires_at

    def _read_again(self, path: Path) -> Web:
        web = self._read(path)
        if (web.tls is None) != (self.current.tls is None):
            raise WebConfigError(f"{FLAG} {path}: turning TLS on or off needs a restart")
        return web

    def _read(self, path: Path) -> Web:
        try:
            with path.open("rb") as file:
                found = parse(file.read(FILE_BYTES + 1))
            return self._set_up(found, path)
        except OSError as error:
            raise WebConfigError(f"{FLAG} {path} cannot be read: {error.strerror}") from error
        except WebConfigError as error:
            raise WebConfigError(f"{FLAG} {path}: {error}") from error

    def _set_up(self, found: WebFile, path: Path) -> Web:
        section = found.tls_server_config
        named = named_files(section, path.parent) if section else {}
        # Before they are read, so that a change during the read is noticed too.
        self._files.watch([path, *named.values()])
        http, rate = found.http_server_config, found.rate_limit
        return Web(
            tls=make_context(section, named, http2=http.http2) if section else None,
            expires_at=find_expiry(section, named) if section else None,
            requires_client=section is not None and section.requires_clients,
            client_names=section.allowed_names if section else frozenset(),
            passwords=Passwords(found.basic_auth_users) if found.basic_auth_users else None,
            limit=TokenBucket(rate.seconds, rate.burst) if rate.seconds else None,
            headers=tuple((name.lower(), value) for name, value in http.headers.items() if value),
        )
