"""Protects the API: keys, certificates and origins, read from files that may change."""

import ipaddress
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import trio

from node.api.edge.asgi import Application, require_certificate, require_key
from node.api.edge.cors import allow_origins
from node.api.edge.tls import CertificateFiles, ServerTls
from node.errors import StartupError
from node.settings import NodeSettings
from shared.events.event import Event
from shared.events.node import NodePart
from shared.runtime.guard import Guard
from shared.runtime.token_file import TokenFile, TokenFileError

_log = logging.getLogger(__name__)


class Protection:
    """An application behind the authentication that the settings require.

    Args:
        application: Answers the admitted requests.
        settings: The node's settings.
        emit: Takes events.

    Raises:
        StartupError: A file cannot be used.
    """

    def __init__(
        self, application: Application, settings: NodeSettings, emit: Callable[[Event], None]
    ) -> None:
        self.tls = _read_tls(settings, emit)
        self._keys = _read_keys(settings.api_key_file)
        self.application = self._wrap(application, settings)
        is_open = self._keys is None and settings.tls_client_ca_file is None
        if is_open and not ipaddress.ip_address(settings.host).is_loopback:
            _log.warning(
                "anyone who can reach %s can use the API: set --api-key-file", settings.host
            )

    def _wrap(self, application: Application, settings: NodeSettings) -> Application:
        if self._keys is not None:
            application = require_key(application, self._keys.tokens)
        if settings.tls_client_ca_file is not None:
            application = require_certificate(application)
        if settings.cors_origins:  # before authentication: a preflight carries no key
            application = allow_origins(application, settings.cors_origins)
        return application

    def levels(self) -> Iterable[Event]:
        """List the levels of the certificate in use, if there is one."""
        return self.tls.levels if self.tls is not None else ()

    async def watch(self, guard: Guard[NodePart]) -> None:
        """Reload the files after changes. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._keys is not None:
                nursery.start_soon(guard, "api_keys", self._keys.follow, name="API keys")
            if self.tls is not None:
                nursery.start_soon(guard, "certificates", self.tls.follow, name="certificate")
            await trio.sleep_forever()


def _read_tls(settings: NodeSettings, emit: Callable[[Event], None]) -> ServerTls | None:
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    files = CertificateFiles(
        settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file
    )
    return ServerTls(files, emit)


def _read_keys(path: Path | None) -> TokenFile | None:
    try:
        return TokenFile("--api-key-file", path) if path is not None else None
    except TokenFileError as error:
        raise StartupError(str(error)) from error
