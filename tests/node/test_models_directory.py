"""Each model in a directory has one plain name; everything else in it is a log line."""

import json
import os
import re
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, get_args

import pytest

from node.errors import StartupError
from node.mesh.messages import Name
from node.serving.catalogue import list_models, name_model
from node.serving.downloads.source import HubFile
from shared.paths import readable
from tests.node.test_header import as_nobody


def ids(directory: Path, *wanted: str) -> list[str]:
    """Return the models' ids, by default of those in the directory."""
    return [model.model_id for model in list_models(wanted, directory)]


def fill(directory: Path, *names: str | bytes) -> Path:
    """Write empty files with their folders."""
    for name in names:
        path = directory / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return directory


FOUND: Final[dict[str, tuple[list[str | bytes], list[str]]]] = {
    "an ending in capitals": (["a.GGUF", "b.Gguf"], ["a", "b"]),
    "another ending": (["a.gguf", "b.bin", "c.gguf.part", "gguf"], ["a"]),
    "folders": (["x/y/b.gguf", "a.gguf", "x/c.gguf"], ["a", "c", "b"]),
    "a folder named like a file": (["x.gguf/b.gguf"], ["b"]),
    "hidden files and folders": (["a.gguf", ".b.gguf", ".c/d.gguf", ".gguf"], ["a"]),
    "one name in several folders": (
        ["m.gguf", "x/m.gguf", "y/m.gguf", "x/y/m.gguf"],
        ["m", "x-m", "y-m", "x-y-m"],
    ),
    "blanks": (["a b.gguf"], ["a-b"]),
    "letters of any script": (["модель é.gguf", "日本.gguf"], ["модель-é", "日本"]),
    "letters in two forms": (["e\u0301.gguf"], ["é"]),
    "bytes that are not UTF-8": ([b"old\xff.gguf"], ["old-xff"]),
    "a line feed": (["a\nb.gguf"], ["a-nb"]),
    "a quote and a brace": (['a"{b}.gguf'], ["a--b-"]),
    "the first part of a model": (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], ["m"]),
    "parts in a folder": (["x/m-00001-of-00002.gguf", "x/m-00002-of-00002.gguf"], ["m"]),
    "a name that is like a part's": (["m-00003-of-00002.gguf"], ["m-00003-of-00002"]),
}


@pytest.mark.parametrize("case", FOUND)
def test_files_are_found_and_named(tmp_path: Path, case: str) -> None:
    """A model is named after its file, with its folders in front if the name is taken."""
    names, expected = FOUND[case]
    assert ids(fill(tmp_path, *names)) == expected


SAME: Final[dict[str, list[str | bytes]]] = {
    "blanks and dashes": ["a b.gguf", "a-b.gguf"],
    "endings": ["a.gguf", "a.GGUF"],
    "other bytes": [b"a\xff.gguf", "a\\xff.gguf", "a-xff.gguf"],
    "long names": ["a" * 200 + ".gguf", "a" * 201 + ".gguf", "a" * 199 + "b.gguf"],
    "folders": ["x/y z/a.gguf", "x/y-z/a.gguf", "x-y/z/a.gguf", "a.gguf"],
}


@pytest.mark.parametrize("case", SAME)
def test_names_are_unique_and_lasting(tmp_path: Path, case: str) -> None:
    """All models have different names, and the same ones at each start."""
    names = SAME[case]
    found = ids(fill(tmp_path, *names))
    assert len(set(found)) == len(names)
    assert found == ids(tmp_path)


def test_name_is_plain_whatever_the_file_is_called(tmp_path: Path) -> None:
    """A name of any file fits an advert, a label, JSON and a log line."""
    odd = [bytes([byte]) * 3 + b"x.gguf" for byte in range(1, 256) if byte not in b"./"]
    for model in list_models((), fill(tmp_path, *odd)):
        assert re.fullmatch(r"[\w.-]{1,64}", model.model_id)
        assert json.loads(json.dumps(model.model_id)) == model.model_id
        assert model.model_id.encode().decode() == model.model_id
        assert model.place.isprintable()
        assert model.place.encode()


def test_longest_name_fits_an_advert() -> None:
    """The longest name is within the limit of messages between nodes."""
    limit = get_args(Name)[1].max_length
    assert len(name_model(Path("ä" * 120 + ".gguf"))) == limit


def test_file_that_was_named_is_not_found_again(tmp_path: Path) -> None:
    """A file named in `--model` is not found again, by any path; a namesake is."""
    fill(tmp_path, "x/a.gguf", "y/a.gguf")
    wanted = str(tmp_path / "x" / ".." / "x" / "a.gguf")
    assert ids(tmp_path, wanted) == ["a", "y-a"]


def test_file_of_the_hub_is_taken_for_the_one_found(tmp_path: Path) -> None:
    """A copy of a file from the hub is not served twice."""
    assert ids(fill(tmp_path, "a.gguf"), "hf:o/r/a.gguf") == ["a"]


def test_part_is_named_after_its_model() -> None:
    """A named part of a split model is named after the model."""
    assert name_model(Path("/m/big-00001-of-00003.gguf")) == "big"
    assert name_model(HubFile("o/r", "q4/big-00001-of-00003.gguf")) == "big"
    assert name_model(Path("/m/big-00002-of-00003.gguf")) == "big-00002-of-00003"


def make_pipe(path: Path) -> None:
    """Create a pipe without a writer."""
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    """Create a socket without a listener."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


ODD: Final[dict[str, tuple[Callable[[Path], None], str]]] = {
    "a pipe": (make_pipe, "is not a file"),
    "a socket": (make_socket, "is not a file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is not a file"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), "is a broken link"),
    "a link to itself": (lambda path: path.symlink_to(path), "cannot be read"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_no_file_is_logged_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    """Anything but a file is logged and skipped."""
    make, says = ODD[case]
    make(fill(tmp_path, "a.gguf") / "odd.gguf")
    assert ids(tmp_path) == ["a"]
    (line,) = caplog.messages
    assert says in line
    assert "odd.gguf" in line


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    """Links to files are models; a folder is entered once."""
    models = fill(tmp_path / "models", "x/a.gguf")
    fill(tmp_path / "other", "b.gguf")
    (models / "x" / "back").symlink_to(models)
    (models / "other").symlink_to(tmp_path / "other")
    (models / "again").symlink_to(tmp_path / "other")
    (models / "latest.gguf").symlink_to(models / "x" / "a.gguf")
    (models / "a.gguf").symlink_to(models / "x" / "a.gguf")
    assert ids(models) == ["a", "latest", "b"]


def test_parts_without_their_first_are_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Parts without their first part are logged once, with the missing one."""
    fill(tmp_path, "a.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf")
    assert ids(tmp_path) == ["a"]
    (line,) = caplog.messages
    assert "m-00001-of-00003.gguf is missing" in line


def test_folder_that_cannot_be_read_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An unreadable folder is logged; an unreadable directory is an error."""
    with tempfile.TemporaryDirectory() as name:
        directory = fill(Path(name), "a.gguf", "closed/b.gguf")
        directory.chmod(0o755)
        (directory / "closed").chmod(0)
        with as_nobody():
            found = ids(directory)
        directory.chmod(0)
        with as_nobody(), pytest.raises(StartupError, match=r"--models-dir .* cannot be read"):
            ids(directory)
        directory.chmod(0o700)
    assert found == ["a"]
    assert "closed cannot be read: Permission denied" in caplog.text


def test_depth_of_folders_is_bounded(tmp_path: Path) -> None:
    """The depth of folders is limited."""
    deep = tmp_path
    for _ in range(40):
        deep /= "d"
    fill(tmp_path, "a.gguf")
    fill(deep, "b.gguf")
    assert ids(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/m/a b.gguf", "/m/a b.gguf"),
        ("/m/é日.gguf", "/m/é日.gguf"),
        (os.fsdecode(b"/m/a\xff.gguf"), "/m/a\\xff.gguf"),
        ("/m/a\n\x1b[2J.gguf", "/m/a\\n\\x1b[2J.gguf"),
        ("/m/\u202efgug.gguf", "/m/\\u202efgug.gguf"),
    ],
)
def test_path_is_shown_readably(path: str, shown: str) -> None:
    """Unprintable parts of a path are escaped."""
    assert readable(path) == shown
