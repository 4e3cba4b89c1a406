"""Where a server elsewhere is: its address in the settings, its key, and how much it gets."""

from pathlib import Path
from typing import Any

import pytest

from node.engine.choice import Wanted
from node.engine.upstream.address import Address, parse_address
from node.engine.upstream.allowance import Allowance
from node.errors import StartupError
from node.serving.catalogue import list_models

KEY_FILE = Path("/run/key")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://host/v1#big", Address("https://host/v1", "big")),
        ("http://127.0.0.1:8000/v1/#o/m:7b", Address("http://127.0.0.1:8000/v1", "o/m:7b")),
        ("http://10.0.0.1/v1#big", Address("http://10.0.0.1/v1", "big")),
    ],
)
def test_address_is_a_url_and_a_model(text: str, address: Address) -> None:
    """The part after # is the server's name for the model."""
    assert parse_address(text, None, None) == address


@pytest.mark.parametrize(
    ("text", "key_file", "fault"),
    [
        ("https://host/v1", None, "names no model: add #model"),
        ("https://user:secret@host/v1#m", None, "put the key into a file, key-file="),
        ("https://host/v1?a=b#m", None, "is not http(s)://host/v1#model"),
        ("https:///v1#m", None, "is not http(s)://host/v1#model"),
        ("https://host:port/v1#m", None, "is not a URL"),
        ("https://[::1/v1#m", None, "is not a URL"),
        (f"https://{'a' * 80}/v1#m", None, "is not a URL"),
        ("https://host/v1#a b", None, "is not http(s)://host/v1#model"),
        ("http://host/v1#m", KEY_FILE, "could be read on the network: use https://"),
        ("http://10.0.0.1/v1#m", KEY_FILE, "could be read on the network: use https://"),
    ],
)
def test_bad_address_is_refused(text: str, key_file: Path | None, fault: str) -> None:
    """The error says what is wrong, without the password in it."""
    with pytest.raises(ValueError, match=r".") as refused:
        parse_address(text, key_file, None)
    assert fault in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_key_may_go_to_this_machine_in_the_clear(host: str) -> None:
    """Nobody else can read what stays on this machine."""
    assert parse_address(f"http://{host}:1/v1#m", KEY_FILE, None).key_file == KEY_FILE


def test_models_on_servers_and_in_files_have_options_of_their_own(tmp_path: Path) -> None:
    """A server has a key, CAs, slots and a context; a file has an engine."""
    text = "big=https://host/v1#o/large,key-file=/k,ca-file=/c,slots=64,context=8192"
    (model,) = list_models([text], None)
    address = Address("https://host/v1", "o/large", Path("/k"), Path("/c"))
    assert (model.model_id, model.source) == ("big", address)
    assert model.wanted == Wanted("auto", 8192, 64)
    assert (model.is_elsewhere, model.place) == (True, "https://host/v1#o/large")
    (unnamed,) = list_models(["https://host/v1#o/large"], tmp_path)
    assert unnamed.model_id == "large"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("https://host/v1#m,engine=auto", "has engine=, which is not for a model on a server"),
        ("/m/a.gguf,key-file=/k", "has key-file=, which is not for a model's file"),
        ("https://host/v1", "names no model"),
    ],
)
def test_option_of_the_other_kind_is_refused(text: str, fault: str) -> None:
    """An option that would do nothing is an error."""
    with pytest.raises(StartupError) as refused:
        list_models([text], None)
    assert fault in str(refused.value)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "No such file"),
        (b"", "it contains no key"),
        (b"two words", "line 1 contains a space"),
        (b"\xff\n", "it is not UTF-8"),
    ],
)
def test_unusable_key_is_refused(tmp_path: Path, content: Any, fault: str) -> None:
    """The error names the file and not what is in it."""
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StartupError) as refused:
        Address("https://host/v1", "m", file).read_key()
    assert f"key-file {file}" in str(refused.value)
    assert fault in str(refused.value)


def test_key_is_read_from_its_file(tmp_path: Path) -> None:
    """Comments are skipped; of several keys the first is sent."""
    file = tmp_path / "key"
    file.write_text("# from the vault\n first \nsecond\n")
    assert Address("https://host/v1", "m", file).read_key() == "first"


def test_server_gets_less_after_refusals_and_more_after_answers() -> None:
    """It gets what it was working on, none if that was nothing, and one more at each answer."""
    allowance = Allowance(8)
    allowance.refuse(3)
    assert (allowance.slots, allowance.is_full) == (3, False)
    allowance.refuse(5)
    assert allowance.slots == 3
    allowance.refuse(0)
    assert allowance.slots == 0
    for slots in (1, 2, 3, 4, 5, 6, 7, 8, 8):
        allowance.succeed()
        assert allowance.slots == slots
    assert allowance.is_full


def test_pause_grows_and_is_bounded() -> None:
    """Each refusal doubles it, a server may wish for a longer one, and an answer ends it."""
    allowance = Allowance(1)
    allowance.refuse(0)
    assert allowance.pause_seconds == 1
    allowance.refuse(0)
    assert allowance.pause_seconds == 2
    allowance.refuse(0, 9)
    assert allowance.pause_seconds == 9
    allowance.refuse(0, 9000)
    assert allowance.pause_seconds == 30
    allowance.succeed()
    assert allowance.pause_seconds == 0.5
