"""Protects the API: keys, certificates and origins, read from files that may change."""

import ipaddress
import logging
from pathlib import Path

import trio

from node.api.edge.asgi import Application, require_certificate, require_key
from node.api.edge.cors import allow_origins
from node.api.edge.tls import CertificateFiles, ServerTls
from node.errors import StartupError
from node.settings import NodeSettings
from shared.events import NodePart
from shared.runtime.follow import FollowedFiles
from shared.runtime.guard import Guard
from shared.secret import TOKEN_FILE_BYTES, BearerTokens, parse_bearer_tokens

_log = logging.getLogger(__name__)


class KeyFile:
    """The API's keys, as they are in their file.

    Raises:
        StartupError: The file cannot be read, or has no usable key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = FollowedFiles([path])
        self.keys = BearerTokens(_read_keys(path))

    def reload(self) -> None:
        """Read the file again; if that fails, the keys read before stay valid."""
        try:
            keys = _read_keys(self.path)
        except StartupError as error:
            _log.error("%s; the keys read before still count", error)
            return
        self.keys.replace(keys)
        _log.info("%d API keys were read again from %s", len(keys), self.path)


class Protection:
    """An application behind the credentials that the settings require.

    Args:
        application: Answers the requests that are let in.
        settings: The node's.

    Raises:
        StartupError: A file cannot be used.
    """

    def __init__(self, application: Application, settings: NodeSettings) -> None:
        self.tls = _read_tls(settings)
        self._key_file = KeyFile(settings.api_key_file) if settings.api_key_file else None
        self.application = self._wrap(application, settings)
        is_open = self._key_file is None and settings.tls_client_ca_file is None
        if is_open and not ipaddress.ip_address(settings.host).is_loopback:
            _log.warning(
                "anyone who can reach %s can use the API: set --api-key-file", settings.host
            )

    def _wrap(self, application: Application, settings: NodeSettings) -> Application:
        if self._key_file is not None:
            application = require_key(application, self._key_file.keys)
        if settings.tls_client_ca_file is not None:
            application = require_certificate(application)
        if settings.cors_origins:  # before authentication: a preflight carries no key
            application = allow_origins(application, settings.cors_origins)
        return application

    async def watch(self, guard: Guard[NodePart]) -> None:
        """Follow the files. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            if (keys := self._key_file) is not None:
                nursery.start_soon(guard, "api_keys", keys.files.run, keys.reload, name="API keys")
            if (tls := self.tls) is not None:
                nursery.start_soon(
                    guard, "certificates", tls.followed.run, tls.reload, name="certificate"
                )
            await trio.sleep_forever()


def _read_tls(settings: NodeSettings) -> ServerTls | None:
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return ServerTls(
        CertificateFiles(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)
    )


def _read_keys(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            return parse_bearer_tokens(file.read(TOKEN_FILE_BYTES + 1))
    except OSError as error:
        raise StartupError(f"--api-key-file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise StartupError(f"--api-key-file {path}: {error}") from error
