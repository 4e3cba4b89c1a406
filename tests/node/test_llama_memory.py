"""llama-server takes no more memory than was estimated before the load."""

from pathlib import Path

import psutil
import pytest
import trio
from trio.testing import trio_test

from node.engine.buffers import BATCH_TOKENS
from node.engine.choice import Wanted
from node.engine.describe import describe
from node.engine.llama_cpp.options import LlamaOptions
from node.engine.llama_cpp.process import open_llama_server
from node.engine.protocol import Described, Loaded
from tests.llama_servers import SERVERS, loading
from tests.patience import patient
from tests.random_models import NAMES, random_model, write_model

pytestmark = pytest.mark.slow

SECONDS = 60.0


async def load(directory: Path, model: Path, described: Described, server: Path | None) -> int:
    """Load a model as it was described; return the resident bytes and check the reported ones."""
    async with open_llama_server(LlamaOptions(directory, "tiny", server)) as link:
        await link.send(
            loading(
                model,
                context_length=described.context_length,
                batch_tokens=BATCH_TOKENS["llama.cpp"],
                slots=described.slots,
                embeds=described.embeds,
            )
        )
        (loaded,) = await link.receive()
        assert isinstance(loaded, Loaded)
        assert loaded.slots == described.slots
        reported = sum(size for _, size in loaded.devices)
        context = described.slots * described.context_length * described.position_bytes
        assert context <= reported
        return int(psutil.Process(link.pid).memory_info().rss)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("name", NAMES)
@trio_test
async def test_estimate_covers_the_server(name: str, server: Path | None, tmp_path: Path) -> None:
    """Weights, context and buffers are at most as estimated, for each architecture."""
    with trio.fail_after(patient(SECONDS)):
        described = await describe(random_model(name), Wanted("llama.cpp", slots=4))
        resident = await load(tmp_path, random_model(name), described, server)
    context = described.slots * described.context_length * described.position_bytes
    assert resident <= described.size_bytes + context + described.buffer_bytes


@trio_test
async def test_split_model_is_loaded_by_its_first_part(tmp_path: Path) -> None:
    """A split model needs no merging."""
    write_model(tmp_path / "m.gguf", "qwen3", split_tensors=20)
    first = min(tmp_path.iterdir())
    with trio.fail_after(patient(SECONDS)):
        described = await describe(first, Wanted())
        assert await load(tmp_path, first, described, None)
