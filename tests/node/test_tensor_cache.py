"""The directory of a worker's tensors stays within its limit."""

import os
from pathlib import Path

from node.pipeline.cache import make_room


def fill(directory: Path, *sizes: int) -> list[Path]:
    """Write files, the least recently used first."""
    folder = directory / "rpc"
    folder.mkdir(parents=True)
    files = [folder / str(number) for number in range(len(sizes))]
    for number, (path, size) in enumerate(zip(files, sizes, strict=True)):
        path.write_bytes(bytes(size))
        os.utime(path, (number, number))
    return files


def test_least_recently_used_tensors_make_room(tmp_path: Path) -> None:
    """As many are removed as the next load may add beyond the limit."""
    first, second, third = fill(tmp_path, 100, 100, 100)
    os.utime(first, (10, 0))  # read again since
    assert make_room(tmp_path, 300, 100)
    assert [path.exists() for path in (first, second, third)] == [True, False, True]


def test_what_fits_stays(tmp_path: Path) -> None:
    """A second load of the same model finds its tensors."""
    files = fill(tmp_path, 100, 100)
    assert make_room(tmp_path, 300, 100)
    assert all(path.exists() for path in files)


def test_load_beyond_the_limit_is_not_kept(tmp_path: Path) -> None:
    """A load that alone exceeds the limit, or half of the free disk, does not use the cache."""
    assert not make_room(tmp_path / "new", 300, 301)
    free = os.statvfs(tmp_path)
    assert not make_room(tmp_path / "new", 2**60, free.f_bavail * free.f_frsize)
