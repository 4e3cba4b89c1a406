"""The node's settings: the only list of its options."""

import dataclasses
from pathlib import Path
from typing import Any, Final

import click

from node.demo import MODEL_PATH
from shared.settings import (
    DIRECTORY,
    FILE,
    HOST,
    NOT_NEGATIVE,
    ORIGINS,
    PORT,
    POSITIVE,
    SEEDS,
    Settings,
    UsageError,
    setting,
)


class _Models(click.ParamType[tuple[str, ...]]):
    name = "[name=]model,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        del param, ctx
        return value if isinstance(value, tuple) else tuple(filter(None, value.split(",")))


_MODELS: Final = _Models()


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeSettings(Settings):
    """What the node is told."""

    model: tuple[str, ...] = setting(
        (str(MODEL_PATH),),
        _MODELS,
        "GGUF files to load and serve, by path or as hf:owner/repo/file.gguf[@revision], perhaps "
        "under other names; the demo model if not given.",
    )
    models_dir: Path | None = setting(
        None, DIRECTORY, "Directory of further GGUF files, each loaded when it is asked for."
    )
    idle_unload_seconds: float = setting(
        0.0, NOT_NEGATIVE, "Seconds without a request after which a model is unloaded; 0 for never."
    )
    api_port: int = setting(8080, PORT, "Port of the API; 0 takes a free one.")
    api_key_file: Path | None = setting(
        None, FILE, "File of API keys, one a line, of which the API then asks for one."
    )
    mesh_port: int = setting(7946, PORT, "Port of the mesh; 0 takes a free one.")
    seed_nodes: tuple[str, ...] = setting(
        (), SEEDS, "Peers to join the mesh by; a name is looked up again and again."
    )
    context_length: int = setting(
        0, click.IntRange(min=0), "Tokens of context; 0 for what the model was trained with."
    )
    max_output_tokens: int = setting(
        0, click.IntRange(min=0), "Tokens that an answer may have; 0 for as many as the context."
    )
    threads: int = setting(
        0, click.IntRange(min=0), "Threads of the engine; 0 for one a usable core but one."
    )
    queue: int = setting(64, click.IntRange(min=1), "Requests that may wait for a model.")
    request_seconds: float = setting(
        600.0, POSITIVE, "Seconds that a request may take, waiting included."
    )
    drain_seconds: float = setting(
        20.0, NOT_NEGATIVE, "Seconds that running requests get when the node stops."
    )
    load_seconds: float = setting(
        600.0, POSITIVE, "Seconds that an engine may take to load its model."
    )
    stall_seconds: float = setting(
        120.0, POSITIVE, "Seconds without progress after which a working engine is replaced."
    )
    tls_cert_file: Path | None = setting(
        None, FILE, "Certificate chain in PEM, with which the API speaks TLS."
    )
    tls_key_file: Path | None = setting(None, FILE, "Private key of --tls-cert-file, in PEM.")
    tls_client_ca_file: Path | None = setting(
        None, FILE, "Authorities in PEM, of which one must have signed a client's certificate."
    )
    cors_origins: tuple[str, ...] = setting(
        (), ORIGINS, "Origins whose pages may use the API from a browser; * for all."
    )
    connections: int = setting(
        1000, click.IntRange(min=1), "Connections to the API that may be open at once."
    )
    reader_seconds: float = setting(
        30.0, POSITIVE, "Seconds that a client may read nothing of its response before it is cut."
    )
    mesh_host: str | None = setting(
        None, HOST, "Address that the mesh listens on; --host with a secret, else loopback."
    )
    mesh_advertise: tuple[str, ...] = setting(
        (), SEEDS, "Where peers reach this node's mesh, if not where it listens."
    )
    mesh_secret_file: Path | None = setting(
        None, FILE, "File of the mesh's secret; a second line is accepted too, not used."
    )
    mesh_tls_cert_file: Path | None = setting(
        None, FILE, "Certificate of this node for TLS in the mesh, PEM."
    )
    mesh_tls_key_file: Path | None = setting(None, FILE, "Its private key, PEM.")
    mesh_tls_ca_file: Path | None = setting(
        None, FILE, "Authority that has signed every node's certificate, PEM."
    )
    peer_ca_file: Path | None = setting(
        None, FILE, "Authorities of other nodes' API certificates, PEM; the system's if not given."
    )
    replicas: int = setting(
        2, click.IntRange(min=1), "Nodes that the plan gives a model which fits one of them."
    )

    def check(self) -> None:
        """Look also whether the files of TLS are there together.

        Raises:
            UsageError: The settings do not go together.
        """
        super().check()
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise UsageError("--tls-cert-file and --tls-key-file go together: give both or neither")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise UsageError("--tls-client-ca-file needs --tls-cert-file and --tls-key-file")
