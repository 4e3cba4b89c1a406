"""The tokens that a llama-server holds, by its answer to `/slots`."""

import pytest

from node.engine.llama_cpp.slots import count_held

UNUSED = '{"id":0,"n_ctx":512,"is_processing":false}'
USED = '{"id":1,"n_ctx":512,"is_processing":false,"id_task":7,"n_prompt_tokens":33}'
SILENT = '{"id":2,"n_ctx":512,"is_processing":true,"id_task":8}'


@pytest.mark.parametrize(
    ("slots", "tokens"),
    [
        ((UNUSED, UNUSED), 0),
        ((UNUSED, USED), 33),
        ((USED, USED), 66),
        ((USED, SILENT), None),
    ],
)
def test_held_tokens_are_those_of_all_slots(slots: tuple[str, ...], tokens: int | None) -> None:
    """A slot that was never used holds nothing; a used one that does not tell makes it unknown."""
    assert count_held(f"[{','.join(slots)}]".encode()) == tokens


@pytest.mark.parametrize("body", [b"", b"{}", b'{"error":{"code":501}}', b"[1]"])
def test_server_without_slots_tells_nothing(body: bytes) -> None:
    """An answer without slots, as with `--no-slots`, gives no number."""
    assert count_held(body) is None
