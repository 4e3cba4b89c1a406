"""A build of llama.cpp is identified by what its programs say."""

from pathlib import Path

import pytest
import trio
from trio.testing import trio_test

from node.pipeline.build import Programs, UnknownBuildError, identify
from tests.llama_servers import COMPILED
from tests.tunnels import BUILD, LIMIT_SECONDS, fake_build


def write(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


@pytest.mark.skipif(not COMPILED.exists(), reason="nothing is compiled: run `just llama-server`")
@trio_test
async def test_real_build_has_a_version() -> None:
    """llama.cpp's own build has a name; on a machine without GPUs it finds none."""
    build = await identify(COMPILED)
    assert "commit" in build.name
    assert not build.has_accelerator


@pytest.mark.parametrize(
    ("devices", "found"),
    [("  (none)", False), ("  CUDA0: NVIDIA (24000 MiB, 23000 MiB free)", True)],
)
@trio_test
async def test_devices_are_found(tmp_path: Path, devices: str, found: bool) -> None:  # noqa: FBT001
    """The memory of a GPU is not the node's to count."""
    text = f'echo "load: a line"; echo "version: 7"; echo "Available devices:"; echo "{devices}"'
    build = await identify(write(tmp_path / "llama-server", text))
    assert (build.name, build.has_accelerator) == ("7", found)


@pytest.mark.parametrize("text", ["exit 1", "echo usage", "kill -9 $$"])
@trio_test
async def test_program_without_a_version_is_no_build(tmp_path: Path, text: str) -> None:
    """Whatever else is at the path, nothing is lent."""
    with pytest.raises(UnknownBuildError, match="prints no version"):
        await identify(write(tmp_path / "llama-server", text))


@trio_test
async def test_build_needs_the_program_of_workers(tmp_path: Path) -> None:
    """Without `ggml-rpc-server` beside it, llama-server lends nothing."""
    server = fake_build(tmp_path)
    (tmp_path / "ggml-rpc-server").unlink()
    alone, both = Programs(server), Programs(fake_build(tmp_path / "both"))
    with trio.fail_after(LIMIT_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alone.run)
            nursery.start_soon(both.run)
            while both.build is None:  # noqa: ASYNC110 - set by another task
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert both.build.name == BUILD
    assert alone.build is None
