"""What the settings mean for the mesh, and which of them do not go together."""

import ipaddress
from pathlib import Path
from typing import Final

from node.errors import StartupError
from node.mesh.addresses import address_of
from node.mesh.rounds import MeshOptions
from node.mesh.transport import Tls
from node.settings import NodeSettings
from shared.secret import parse_tokens

TLS_NAME: Final = "mesh.distributed-llm"
"""The name that each node's certificate carries: who belongs is the authority's to say, and where
a node is found changes."""
_SECRET_CHARACTERS: Final = 16


def read_options(settings: NodeSettings, software: str) -> MeshOptions:
    """Read the settings of the mesh.

    Raises:
        StartupError: The mesh would be open to others without a secret, or a file is no good.
    """
    secrets = _read_secrets(settings.mesh_secret_file)
    return MeshOptions(
        node_id=settings.node_id,
        software=software,
        state_dir=settings.state_dir,
        host=_host(settings, has_secret=bool(secrets)),
        port=settings.mesh_port,
        advertised=_advertised(settings),
        seeds=settings.seed_nodes,
        secrets=secrets,
        tls=_tls(settings),
        replicas=settings.replicas,
    )


def _host(settings: NodeSettings, *, has_secret: bool) -> str:
    if has_secret:
        return settings.mesh_host or settings.host
    asked = settings.mesh_host or (settings.host if settings.seed_nodes else None)
    if asked is None or ipaddress.ip_address(asked).is_loopback:
        return asked or "127.0.0.1"
    flag = "--mesh-host" if settings.mesh_host else "--host"
    message = (
        f"without a secret the mesh listens on loopback only, not on {flag} {asked}: "
        "set --mesh-secret-file, the same on every node"
    )
    raise StartupError(message)


def _read_secrets(file: Path | None) -> tuple[str, ...]:
    if file is None:
        return ()
    try:
        secrets = parse_tokens(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"--mesh-secret-file {file} cannot be read: {error}") from error
    if not secrets:
        raise StartupError(f"--mesh-secret-file {file} holds no secret")
    if any(len(secret) < _SECRET_CHARACTERS for secret in secrets):
        message = (
            f"--mesh-secret-file {file} holds a secret of less than {_SECRET_CHARACTERS} "
            "characters: make one with `openssl rand -hex 32`"
        )
        raise StartupError(message)
    return tuple(secrets)


def _advertised(settings: NodeSettings) -> tuple[str, ...]:
    addresses = []
    for given in settings.mesh_advertise:
        host, _, port = given.rpartition(":")
        try:
            addresses.append(address_of(host.strip("[]"), int(port)))
        except ValueError as error:
            raise StartupError(f"--mesh-advertise {given} is no IP address and port") from error
    return tuple(addresses)


def _tls(settings: NodeSettings) -> Tls | None:
    files = (settings.mesh_tls_cert_file, settings.mesh_tls_key_file, settings.mesh_tls_ca_file)
    if not any(files):
        return None
    certificate, key, authority = files
    if certificate is None or key is None or authority is None:
        message = (
            "TLS for the mesh needs all of --mesh-tls-cert-file, --mesh-tls-key-file and "
            "--mesh-tls-ca-file"
        )
        raise StartupError(message)
    return Tls(certificate, key, authority, TLS_NAME)
