"""Keys and tokens protect API and metrics, and are never shown."""

from pathlib import Path

import grpc
import httpx
import openai
import pytest

from tests import commands
from tests.grpc_client import connect, pb
from tests.processes import Pair, wait_for

KEY = "sk-a-key-of-a-client"
TOKEN = "a-token-of-prometheus"
RIGHT = (("authorization", f"Bearer {KEY}"),)
WRONG = (("authorization", "Bearer sk-wrong"),)


def test_api_and_metrics_ask_for_what_they_were_given(pair: Pair, tmp_path: Path) -> None:
    """Without a valid key the API answers 401; probes and checks need none."""
    keys, tokens = tmp_path / "keys", tmp_path / "tokens"
    keys.write_text(f"# clients\n{KEY}\n")
    tokens.write_text(f"{TOKEN}\n")
    with (
        pair.exporter(f"--metrics-token-file={tokens}") as exporter,
        pair.node(f"--api-key-file={keys}") as node,
    ):
        refused = httpx.post(f"{node.url}/v1/completions", json={"prompt": "x"})
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "missing_api_key"
        assert refused.headers["www-authenticate"] == "Bearer"
        wrong = httpx.get(f"{node.url}/v1/models", headers={"Authorization": "Bearer sk-wrong"})
        assert wrong.json()["error"]["code"] == "invalid_api_key"
        assert "sk-wrong" not in wrong.text
        client = openai.OpenAI(base_url=f"{node.url}/v1", api_key=KEY, max_retries=0)
        assert client.completions.create(model="demo", prompt="Once", max_tokens=2).choices
        with pytest.raises(openai.AuthenticationError, match="the API key is wrong"):
            client.with_options(api_key="wrong").models.list()
        with connect(node.url) as channel:
            for metadata, told in (
                (None, "no API key"),
                (WRONG, "is wrong"),
            ):
                with pytest.raises(grpc.RpcError, match=told) as denied:
                    channel.inference.ListModels(pb.ListModelsRequest(), metadata=metadata)
                assert denied.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert channel.inference.ListModels(pb.ListModelsRequest(), metadata=RIGHT).models
        assert httpx.get(f"{node.url}/health").status_code == 200
        assert httpx.get(f"{node.url}/livez").text == "ok\n"

        assert httpx.get(f"{exporter.url}/metrics").status_code == 401
        assert httpx.get(f"{exporter.url}/health").status_code == 401
        assert httpx.get(f"{exporter.url}/livez").status_code == 200
        wait_for(lambda: httpx.get(f"{exporter.url}/readyz").status_code == 200)
        assert set(httpx.get(f"{exporter.url}/readyz").json()) == {"status"}
        authorized = {"Authorization": f"Bearer {TOKEN}"}
        shown = httpx.get(f"{exporter.url}/metrics", headers=authorized)
        assert shown.status_code == 200
        told = shown.text + node.log.read_text() + exporter.log.read_text()
        assert KEY not in told
        assert TOKEN not in told


@pytest.mark.parametrize("program", ["node", "exporter"])
@pytest.mark.parametrize("content", [None, b"# only a comment\n", "zwölf".encode()])
def test_unusable_secret_file_is_one_line(
    pair: Pair, tmp_path: Path, program: str, content: bytes | None
) -> None:
    """A secret file without a usable key is refused at the start in one line."""
    file = tmp_path / "secrets"
    if content is not None:
        file.write_bytes(content)
    flag = "--api-key-file" if program == "node" else "--metrics-token-file"
    port = "--api-port=0" if program == "node" else "--metrics-port=0"
    done = commands.run(program, port, *pair.flags, f"{flag}={file}")
    assert done.returncode == 1
    *started, last = done.stderr.splitlines()
    assert all(" INFO " in line for line in started)  # the settings
    assert flag in last
