"""The node's settings: the only list of its options."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Self

import click

from node.demo import MODEL_PATH
from node.engine.choice import Wanted
from node.engine.llama_cpp.flags import split_flags
from node.mesh.identity import kept_node_id
from node.serving.entry import ENGINES, MODELS, EngineChoice
from shared.settings.base import Settings
from shared.settings.declaration import Topic, UsageError, setting
from shared.settings.kinds import (
    COUNT,
    COUNT_OR_NONE,
    DIRECTORY,
    DNS_NAME,
    FILE,
    HOST,
    NOT_NEGATIVE,
    ORIGINS,
    PORT,
    POSITIVE,
    SEEDS,
    TEXT,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeSettings(Settings):
    """The node's settings."""

    table: ClassVar[str] = "node"

    model: tuple[str, ...] = setting(
        Topic.MODELS,
        (str(MODEL_PATH),),
        MODELS,
        "GGUF files to load at the start, by path or as hf:owner/repo/file.gguf[@revision], "
        "optionally with engine=, slots= and context=; or models on servers, as "
        "https://host/v1#model with key-file=, ca-file=, slots= and context=.",
        shown="the demo model",
    )
    models_dir: Path | None = setting(
        Topic.MODELS, None, DIRECTORY, "Directory of more GGUF files, loaded on request."
    )
    engine: EngineChoice = setting(
        Topic.MODELS,
        "auto",
        click.Choice(ENGINES),
        "Engine of the models; auto takes ctransformers for what it can run.",
    )
    slots: int = setting(
        Topic.MODELS,
        0,
        COUNT_OR_NONE,
        "Requests that a model answers at once.",
        shown="1 with ctransformers, 4 with llama.cpp, fewer if memory is short",
    )
    context_length: int = setting(
        Topic.MODELS,
        0,
        COUNT_OR_NONE,
        "Tokens of context of each slot.",
        shown="as trained, less if memory is short",
    )
    threads: int = setting(
        Topic.MODELS, 0, COUNT_OR_NONE, "Threads of an engine.", shown="usable cores less one"
    )
    memory_limit_mib: int = setting(
        Topic.MODELS,
        0,
        COUNT_OR_NONE,
        "MiB of memory that models and workers lent to other nodes may take together.",
        shown="what the machine grants",
    )
    gpu_layers: int | None = setting(
        Topic.MODELS,
        None,
        COUNT_OR_NONE,
        "Layers to place on GPUs; needs --llama-server.",
        shown="as many as fit",
    )
    llama_server: Path | None = setting(
        Topic.MODELS,
        None,
        FILE,
        "Program to run models with, such as a build for GPUs; with ggml-rpc-server beside it, "
        "the node also lends memory and cores to models split over nodes.",
        shown="the llama-server inside xllamacpp",
    )
    llama_server_args: str = setting(
        Topic.MODELS, "", TEXT, "More flags for llama-server, quoted as in a shell."
    )
    load_seconds: float = setting(Topic.MODELS, 600.0, POSITIVE, "Time limit for loading a model.")
    stall_seconds: float = setting(
        Topic.MODELS,
        120.0,
        POSITIVE,
        "Time without progress after which a working engine is replaced.",
    )
    idle_unload_seconds: float = setting(
        Topic.MODELS, 0.0, NOT_NEGATIVE, "Unload a model that is idle this long.", shown="never"
    )
    api_port: int = setting(Topic.API, 8080, PORT, "Port of the API; 0 picks a free one.")
    api_key_file: Path | None = setting(
        Topic.API, None, FILE, "API keys, one per line; require one for the API."
    )
    cors_origins: tuple[str, ...] = setting(
        Topic.API, (), ORIGINS, "Origins whose pages may use the API in a browser; * for all."
    )
    tls_cert_file: Path | None = setting(
        Topic.TLS, None, FILE, "Certificate chain, PEM; serve the API over TLS."
    )
    tls_key_file: Path | None = setting(Topic.TLS, None, FILE, "Its private key, PEM.")
    tls_client_ca_file: Path | None = setting(
        Topic.TLS, None, FILE, "Trusted CAs, PEM; require a client certificate signed by one."
    )
    peer_ca_file: Path | None = setting(
        Topic.TLS,
        None,
        FILE,
        "Trusted CAs of other nodes' API certificates, PEM.",
        shown="the system's",
    )
    peer_tls_name: str = setting(
        Topic.TLS,
        "",
        DNS_NAME,
        "Name that other nodes' API certificates have, if they do not list addresses.",
        shown="the address",
    )
    max_output_tokens: int = setting(
        Topic.LIMITS, 0, COUNT_OR_NONE, "Tokens per answer.", shown="what fits in the context"
    )
    queue: int = setting(Topic.LIMITS, 64, COUNT, "Requests that may wait for a model.")
    request_seconds: float = setting(
        Topic.LIMITS, 600.0, POSITIVE, "Time limit for a request, including its wait in the queue."
    )
    drain_seconds: float = setting(
        Topic.LIMITS, 20.0, NOT_NEGATIVE, "Time that running requests get when the node stops."
    )
    connections: int = setting(Topic.LIMITS, 1000, COUNT, "Open connections to the API.")
    reader_seconds: float = setting(
        Topic.LIMITS, 30.0, POSITIVE, "Time after which a client that stops reading is cut off."
    )
    mesh_port: int = setting(Topic.MESH, 7946, PORT, "Port of the mesh; 0 picks a free one.")
    seed_nodes: tuple[str, ...] = setting(
        Topic.MESH, (), SEEDS, "Peers to join; names are resolved again regularly."
    )
    mesh_secret_file: Path | None = setting(
        Topic.MESH,
        None,
        FILE,
        "Shared secret; a second line is also accepted, for rotation.",
    )
    mesh_host: str | None = setting(
        Topic.MESH,
        None,
        HOST,
        "IP address that the mesh listens on.",
        shown="--host with a secret, else loopback",
    )
    mesh_advertise: tuple[str, ...] = setting(
        Topic.MESH,
        (),
        SEEDS,
        "Addresses at which peers reach this node's mesh.",
        shown="where it listens",
    )
    mesh_tls_cert_file: Path | None = setting(
        Topic.MESH, None, FILE, "Certificate of this node, PEM; encrypt the mesh with TLS."
    )
    mesh_tls_key_file: Path | None = setting(Topic.MESH, None, FILE, "Its private key, PEM.")
    mesh_tls_ca_file: Path | None = setting(
        Topic.MESH, None, FILE, "CA that signed every node's certificate, PEM."
    )
    replicas: int = setting(
        Topic.MESH, 2, COUNT, "Nodes on which the plan places a model that fits on one."
    )

    def check(self) -> None:
        """Also check that the TLS files are complete, and llama-server's flags.

        Raises:
            UsageError: The settings contradict each other.
        """
        super().check()
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise UsageError("--tls-cert-file and --tls-key-file go together: set both or neither")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise UsageError("--tls-client-ca-file needs --tls-cert-file and --tls-key-file")
        try:
            split_flags(self.llama_server_args)
        except ValueError as error:
            raise UsageError(f"--llama-server-args: {error}") from error

    @property
    def wanted(self) -> Wanted:
        """How models are to be held that say nothing else."""
        return Wanted(self.engine, self.context_length, self.slots)

    @property
    def memory_limit_bytes(self) -> int:
        """The limit of memory for models and workers; 0 for none."""
        return self.memory_limit_mib * 2**20

    @property
    def may_use_gpu(self) -> bool:
        """Whether llama.cpp may hold models in the memory of GPUs, which the node cannot see."""
        return self.llama_server is not None and self.gpu_layers != 0

    def with_node_id(self) -> Self:
        """Return the settings with the node's name: the given one, else the one that it kept."""
        return dataclasses.replace(self, node_id=kept_node_id(self.node_id, self.state_dir))
