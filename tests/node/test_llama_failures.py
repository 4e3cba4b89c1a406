"""A llama-server that cannot serve a model is explained in one line, with the remedy."""

import os
import re
import secrets
import socket
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import trio_test

from node.engine.llama_cpp import server
from node.engine.llama_cpp.options import LlamaOptions
from node.engine.llama_cpp.process import open_llama_server
from node.engine.llama_cpp.socket_path import open_socket_path
from shared.wire import SOCKET_NAME
from tests.llama_servers import SERVERS, failure, loading
from tests.patience import patient
from tests.random_models import random_model, write_model

SECONDS = 60.0
servers = pytest.mark.parametrize("compiled", SERVERS)


def script(directory: Path, commands: str) -> Path:
    """Return an executable shell script."""
    path = directory / "llama-server"
    path.write_text(f"#!/bin/sh\n{commands}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ("exit 0", "it ended with status 0: it said nothing; is it a llama-server?"),
        ("echo 'usage: frobnicate'; exit 2", "it ended with status 2: usage: frobnicate"),
        ("kill -ILL $$", "it was compiled for another CPU"),
        ("kill -SEGV $$", "it was killed by signal 11"),
        ("echo 'error: invalid argument: --poll'; exit 1", "it does not know the flag --poll"),
        (
            "echo \"0.0.1 E llama_model_load: unknown model architecture: 'gemma9'\"; exit 1",
            "it does not know the architecture gemma9: set --llama-server to a newer one",
        ),
    ],
)
@trio_test
async def test_program_that_ends_is_explained(commands: str, expected: str, tmp_path: Path) -> None:
    """The reason names the model's file, the program, the cause and the remedy."""
    program = script(tmp_path, commands)
    with trio.fail_after(patient(SECONDS)):
        why = await failure(
            LlamaOptions(tmp_path, "tiny", program), loading(Path("/models/tiny.gguf"))
        )
    assert why.startswith(f"/models/tiny.gguf: {program} did not load it: ")
    assert expected in why
    assert "\n" not in why


@pytest.mark.parametrize("kind", ["missing", "directory", "not executable", "not a program"])
@trio_test
async def test_program_that_cannot_run_is_explained(kind: str, tmp_path: Path) -> None:
    """A program that is missing or not executable names the setting."""
    program = tmp_path / "llama-server"
    if kind == "directory":
        program.mkdir()
    elif kind != "missing":
        program.write_bytes(b"\x7fELF for nobody")
        program.chmod(0o644 if kind == "not executable" else 0o755)
    with trio.fail_after(patient(SECONDS)):
        why = await failure(LlamaOptions(tmp_path, "tiny", program), loading(Path("/tiny.gguf")))
    assert re.search(r"it cannot be run \(.+\): check --llama-server$", why)


@trio_test
async def test_kill_during_the_load_says_nothing_of_the_model(tmp_path: Path) -> None:
    """Out of memory, the kernel kills the server: the model may load another time."""
    options = LlamaOptions(tmp_path, "tiny", script(tmp_path, "kill -KILL $$"))
    with trio.fail_after(patient(SECONDS)):
        async with open_llama_server(options) as link:
            await link.send(loading(Path("/tiny.gguf")))
            assert await link.receive() == []
            assert await link.wait_epitaph() == f"llama-server {link.pid} was killed by signal 9"


@trio_test
async def test_server_that_was_never_started_has_an_epitaph(tmp_path: Path) -> None:
    """Who asks for the end of a server that was not started does not wait."""
    with trio.fail_after(patient(SECONDS)):
        async with open_llama_server(LlamaOptions(tmp_path, "tiny")) as link:
            assert link.pid == 0
            assert await link.wait_epitaph() == "llama-server was not started"


@pytest.mark.slow
@servers
@trio_test
async def test_unknown_architecture_asks_for_a_newer_server(
    compiled: Path | None, tmp_path: Path
) -> None:
    """A file of an architecture that the server does not know names it."""
    model = write_model(tmp_path / "a.gguf", "llama3", general__architecture="gemma9")
    with trio.fail_after(patient(SECONDS)):
        why = await failure(LlamaOptions(tmp_path, "tiny", compiled), loading(model))
    assert "it does not know the architecture gemma9: set --llama-server to a newer one" in why


@pytest.mark.slow
@servers
@trio_test
async def test_cut_file_is_refused(compiled: Path | None, tmp_path: Path) -> None:
    """A file that lacks its end is not loaded."""
    model = write_model(tmp_path / "a.gguf", "llama3")
    os.truncate(model, model.stat().st_size // 2)
    with trio.fail_after(patient(SECONDS)):
        why = await failure(LlamaOptions(tmp_path, "tiny", compiled), loading(model))
    assert "did not load it: it ended with status 1: " in why
    assert "corrupted or incomplete" in why


@pytest.mark.slow
@servers
@trio_test
async def test_build_without_gpus_is_refused_gpu_layers(
    compiled: Path | None, tmp_path: Path
) -> None:
    """Layers for a GPU that the build does not have are an error, not a slow answer."""
    options = LlamaOptions(tmp_path, "tiny", compiled, gpu_layers=2)
    with trio.fail_after(patient(SECONDS)):
        why = await failure(options, loading(random_model("llama3")))
    assert "it has no GPU for --gpu-layers: set --llama-server to a build" in why


@pytest.mark.slow
@servers
@trio_test
async def test_unknown_flag_is_named(compiled: Path | None, tmp_path: Path) -> None:
    """A flag that the server does not know is named."""
    options = LlamaOptions(tmp_path, "tiny", compiled, arguments=("--frobnicate",))
    with trio.fail_after(patient(SECONDS)):
        why = await failure(options, loading(random_model("llama3")))
    assert "does not know" in why
    assert "--frobnicate" in why


@pytest.mark.slow
@servers
@trio_test
async def test_socket_in_use_is_named(
    compiled: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that cannot listen names its socket and the setting."""
    monkeypatch.setattr(secrets, "token_hex", lambda _: "abcdef")
    with socket.socket(socket.AF_UNIX) as other, trio.fail_after(patient(SECONDS)):
        other.bind(str(tmp_path / "ll-abcdef.sock"))
        why = await failure(
            LlamaOptions(tmp_path, "tiny", compiled), loading(random_model("llama3"))
        )
    assert f"it cannot listen on {tmp_path}/ll-abcdef.sock: check --runtime-dir" in why


def test_missing_library_of_the_wheel_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without libgomp, the server in the wheel names the package to install."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    assert server.main([]) == 1
    assert capfd.readouterr().err.count("\n") == 1


def test_socket_fits_where_the_telemetry_socket_fits(tmp_path: Path) -> None:
    """The length of --runtime-dir is checked once, for the longest name in it."""
    with open_socket_path(tmp_path) as path:
        assert len(path.name) <= len(SOCKET_NAME)


def test_only_sockets_of_dead_servers_are_removed(tmp_path: Path) -> None:
    """A socket without a listener is removed once it is old; nothing else is."""
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as dead:
        for name, bound in (("ll-000001.sock", living), ("ll-000002.sock", dead)):
            bound.bind(str(tmp_path / name))
        living.listen()
    (tmp_path / "ll-000003.sock").write_text("a file")
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(tmp_path / "ll-000004.sock"))
        living.listen()
        with open_socket_path(tmp_path):
            assert len(list(tmp_path.iterdir())) == 4
        for path in tmp_path.iterdir():
            os.utime(path, (0, 0))
        with open_socket_path(tmp_path):
            pass
        left = {path.name for path in tmp_path.iterdir()}
    assert left == {"ll-000003.sock", "ll-000004.sock"}


@trio_test
async def test_directory_that_cannot_be_used_is_an_error_of_the_system(tmp_path: Path) -> None:
    """The supervisor gets the error of a directory that is none, and tries again."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        async with open_llama_server(LlamaOptions(tmp_path / "file", "tiny")):
            pass
