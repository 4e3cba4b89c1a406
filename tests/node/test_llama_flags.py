"""The flags of llama-server: those of the operator, and those that the wheel's server takes."""

from pathlib import Path

import pytest
import xllamacpp

from node.engine.llama_cpp.flags import split_flags
from node.engine.llama_cpp.options import LlamaOptions, command
from node.engine.llama_cpp.server import FlagError, apply
from node.engine.protocol import Load
from node.settings import NodeSettings
from shared.settings.declaration import UsageError

LOAD = Load(b"/models/a.gguf", 1000, 3, 64, 4)


def test_flags_are_split_as_in_a_shell() -> None:
    """Quotes keep a value together."""
    assert split_flags("--flash-attn on --chat-template 'a b'") == (
        *("--flash-attn", "on", "--chat-template", "a b"),
    )
    assert split_flags("") == ()


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        ("--port 80", "--port is set by the node: use --runtime-dir"),
        ("-c 512", "-c is set by the node: use --context-length"),
        ("--parallel=3", "--parallel=3 is set by the node: use --slots"),
        ("--chat-template 'a", "No closing quotation"),
    ],
)
def test_flags_of_the_node_are_refused_at_the_start(flags: str, fault: str) -> None:
    """A flag that contradicts a setting names that setting, before any model is loaded."""
    with pytest.raises(UsageError, match="--llama-server-args: ") as raised:
        NodeSettings.read("node", [f"--llama-server-args={flags}"], "")
    assert fault in str(raised.value)


def test_every_flag_of_the_node_is_taken_by_the_wheel() -> None:
    """The server in the wheel takes the whole command line that any llama-server gets."""
    _, *flags = command(LlamaOptions(Path("/run"), "a"), LOAD, Path("/run/a.sock"))
    parameters = xllamacpp.CommonParams()
    apply(parameters, flags[flags.index("--model") :])
    assert parameters.model.path == "/models/a.gguf"
    assert list(parameters.hostnames) == ["/run/a.sock"]
    assert (parameters.n_parallel, parameters.n_ctx) == (4, 4000)
    assert parameters.cpuparams.n_threads == parameters.cpuparams_batch.n_threads == 3
    assert parameters.cache_ram_mib == 0


def test_embedding_model_sees_a_whole_text_in_one_batch() -> None:
    """A text that fits the context fits the batch, which such a model needs."""
    load = Load(b"/models/a.gguf", 1000, 3, 64, 4, embeds=True)
    flags = command(LlamaOptions(Path("/run"), "a"), load, Path("/run/a.sock"))
    assert "--embeddings" in flags
    assert flags[flags.index("--ubatch-size") + 1] == "1000"


def test_program_gets_the_gpu_layers_and_the_operators_flags() -> None:
    """A named program runs with its absolute path; the operator's flags come last."""
    options = LlamaOptions(Path("/run"), "a", Path("bin/llama-server"), 12, ("--mlock",))
    program, *flags = command(options, LOAD, Path("/run/a.sock"))
    assert program == str(Path("bin/llama-server").absolute())
    assert flags[flags.index("--n-gpu-layers") + 1] == "12"
    assert flags[-1] == "--mlock"


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--frobnicate"], "does not know --frobnicate"),
        (["--threads"], "--threads needs a value"),
        (["--threads", "many"], "--threads does not take the value 'many'"),
        (["--pooling", "best"], "--pooling does not take the value 'best'"),
        (["--cache-type-k", "q9"], "--cache-type-k does not take"),
        (["--threads", "9" * 30], "--threads does not take"),
    ],
)
def test_wrong_flag_of_the_wheel_is_one_line(flags: list[str], fault: str) -> None:
    """A flag that the wheel's server cannot take is named with what is wrong."""
    with pytest.raises(FlagError) as raised:
        apply(xllamacpp.CommonParams(), flags)
    assert fault in str(raised.value)
    assert "\n" not in str(raised.value)
