"""What llama-server prints is understood: memory by device, and why it ended."""

import signal

import pytest

from node.engine.llama_cpp.log import Memory, explain_end, is_severe

LOADED = """\
0.00.051.980 I load_tensors:   CPU_Mapped model buffer size =    92.50 MiB
0.00.051.981 I load_tensors:        CUDA0 model buffer size =  1024.00 MiB
0.00.053.699 I llama_context:  CUDA_Host  output buffer size =     0.50 MiB
0.00.053.760 I llama_kv_cache:      CUDA0 KV buffer size =    72.00 MiB
0.00.153.746 I sched_reserve:      CUDA0 compute buffer size =    20.00 MiB
llama_kv_cache: size =   72.00 MiB (  1024 cells,  12 layers,  2/2 seqs)
"""
MEBIBYTE = 2**20


def test_memory_is_summed_by_device() -> None:
    """Weights, context and buffers of a device are one sum; host memory is the CPU's."""
    memory = Memory()
    for line in LOADED.splitlines():
        memory.read(line)
    assert memory.devices == (("CPU", 93 * MEBIBYTE), ("CUDA0", 1116 * MEBIBYTE))
    assert memory.has_accelerator
    assert not Memory().has_accelerator


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "0.00.1 E llama_model_load: error loading model: unknown model architecture: 'gemma9'",
            "the architecture gemma9: set --llama-server",
        ),
        ("error: invalid argument: --fast", "the flag --fast: check --llama-server-args"),
        (
            "a: error while loading shared libraries: libcudart.so.12: cannot open shared object",
            "the library libcudart.so.12: install it",
        ),
        ("/opt/x cannot be run: No such file or directory", "check --llama-server"),
        (
            "0.0 E srv  start: couldn't bind HTTP server socket, hostname: /run/a.sock, port: 0",
            "cannot listen on /run/a.sock: check --runtime-dir",
        ),
        (
            "0.0 E ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 9",
            "lower --context-length",
        ),
        ("0.0 E cudaMalloc failed: out of memory", "lower --context-length"),
    ],
)
def test_known_cause_is_named_with_its_remedy(line: str, expected: str) -> None:
    """The line that names the cause becomes an explanation, whatever follows it."""
    assert expected in explain_end([line, "0.0 I srv  operator(): cleaning up before exit..."], 1)


def test_unknown_end_quotes_the_first_error() -> None:
    """Without a known cause, the first error is quoted, else the last line."""
    lines = ["0.0.2 I srv init: x", "0.0.3 E srv init: the sky fell", "0.0.4 E srv stop: exiting"]
    assert explain_end(lines, 3) == "it ended with status 3: srv init: the sky fell"
    assert explain_end(["hello", ""], -11) == "it was killed by signal 11: hello"
    assert "is it a llama-server?" in explain_end([], 0)
    assert "another CPU" in explain_end([], -signal.SIGILL)


def test_only_warnings_and_errors_are_severe() -> None:
    """The level is read from the prefix, never from the text."""
    assert is_severe("0.17.018.053 W srv: x")
    assert is_severe("0.17.018.053 E srv: x")
    assert not is_severe("0.17.018.053 I srv: W E")
    assert not is_severe("W a prompt that looks like a warning")
