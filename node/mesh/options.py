"""How a node takes part in the mesh: what its settings mean, and which combinations are invalid."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.errors import StartupError
from node.mesh.addresses import address_of
from node.mesh.transport import Tls
from node.settings import NodeSettings
from shared.secret import parse_tokens

TLS_NAME: Final = "mesh.distributed-llm"
"""The name in every node's certificate: the CA decides which nodes belong to the mesh, and their
addresses change."""
_SECRET_CHARACTERS: Final = 16
_MAKE_ONE: Final = "make one with `openssl rand -hex 32`"


@dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """How a node takes part in the mesh."""

    node_id: str
    software: str
    state_dir: Path
    host: str
    """The address to listen on."""
    port: int
    advertised: tuple[str, ...] = ()
    """The addresses at which peers reach this node, if not the ones on which it listens."""
    seeds: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    tls: Tls | None = None
    peers_limit: int = 256
    """Limit of known peers. Each costs traffic in every round, and a mesh has a few dozen nodes."""


def read_options(settings: NodeSettings, software: str) -> MeshOptions:
    """Read the mesh's settings.

    Raises:
        StartupError: The mesh would be open to others without a secret, or a file cannot be used.
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
        raise StartupError(f"--mesh-secret-file {file} contains no secret: {_MAKE_ONE}")
    shortest = min(map(len, secrets))
    if shortest < _SECRET_CHARACTERS:
        message = (
            f"--mesh-secret-file {file}: the secret has {shortest} characters; it needs at least "
            f"{_SECRET_CHARACTERS}: {_MAKE_ONE}"
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
            message = f"--mesh-advertise {given} is not an IP address and a port (192.0.2.7:7946)"
            raise StartupError(message) from error
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
