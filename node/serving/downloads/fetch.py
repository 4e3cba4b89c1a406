"""Downloads one file from the hub into its usual cache, in a process that may hang or die.

`python -m node.serving.downloads.fetch hf:owner/repo/file.gguf` writes reports (`report`) to its
standard output.

The hub's own client finds the file and knows the cache's layout and the access rights. The bytes
are downloaded here, because the client starts over after a process's death and does not check the
hash. Here the bytes are appended to one `.incomplete` file and checked before anything can use
them.
"""

import errno
import hashlib
import logging
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

# Set before the client is imported, which reads these once. Its other download method (Xet) keeps
# nothing from which a later process could resume.
os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
os.environ["HF_HUB_DISABLE_UPDATE_CHECK"] = "1"

import httpx2
import msgspec
from huggingface_hub import constants, errors, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.file_download import HfFileMetadata, get_hf_file_metadata, repo_folder_name
from huggingface_hub.utils import (
    WeakFileLock,
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from node.serving.downloads.report import Failed, Fetched, Moved, Noted, Report
from node.serving.downloads.source import HubFile, parse_source
from shared.paths import readable

_CHUNK_BYTES: Final = 2**20
_REPORT_SECONDS: Final = 0.25
_ATTEMPTS: Final = 5
"""Consecutive connections without progress before the download fails; a guess."""
_PAUSE_SECONDS: Final = 0.5
"""The pause before the second attempt; doubled before each further one."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_ENDPOINT: Final = urlsplit(constants.ENDPOINT).netloc.rpartition("@")[2]


class FetchError(Exception):
    """The file cannot be downloaded; the text is one line with cause and remedy."""


class _Progress:
    """Reports the progress at intervals."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._reported = 0.0

    def note(self, done: int) -> None:
        """Report that `done` bytes are here."""
        now = time.monotonic()
        if done == self._total or now - self._reported > _REPORT_SECONDS:
            self._reported = now
            _send(Moved(done, self._total))


def fetch(file: HubFile) -> Path:
    """Return the file's path in the cache; download it first if it is missing.

    Raises:
        FetchError: The file cannot be downloaded.
    """
    kept = try_to_load_from_cache(file.repository, file.path, revision=file.revision)
    if isinstance(kept, str):
        return Path(kept)
    try:
        return _fetch(file)
    except FetchError:
        raise
    except Exception as error:
        raise FetchError(_explain(file, error)) from error


def _fetch(file: HubFile) -> Path:
    url = hf_hub_url(file.repository, file.path, revision=file.revision)
    found = get_hf_file_metadata(url)
    if not found.commit_hash:
        raise FetchError(f"{_ENDPOINT} is not a hub: check HF_ENDPOINT")
    if not found.size or not _SHA256.fullmatch(found.etag or ""):
        raise FetchError(f"the hub has no size and SHA-256 for {file}: download it by hand")
    folder = repo_folder_name(repo_id=file.repository, repo_type="model")
    blob = Path(constants.HF_HUB_CACHE, folder, "blobs", str(found.etag))
    lock = Path(constants.HF_HUB_CACHE, ".locks", folder, f"{found.etag}.lock")
    for directory in (blob.parent, lock.parent):
        directory.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):  # like the client: two nodes may download it at once
        if not blob.exists():
            _fetch_blob(file, found, blob)
    # From exactly this commit: the branch may have moved meanwhile.
    path = hf_hub_download(file.repository, file.path, revision=found.commit_hash)
    if file.revision != found.commit_hash:
        _keep_revision(blob.parent.parent / "refs" / file.revision, found.commit_hash)
    return Path(path)


def _fetch_blob(file: HubFile, found: HfFileMetadata, blob: Path) -> None:
    size = found.size or 0
    incomplete = blob.with_name(f"{blob.name}.incomplete")
    incomplete.touch()
    have = incomplete.stat().st_size
    free = shutil.disk_usage(blob.parent).free
    if size - have > free:
        raise FetchError(_no_room(size - have, free))
    _fetch_bytes(file, found, incomplete, _Progress(size))
    _send(Noted("checking its hash"))
    with incomplete.open("rb") as whole:
        os.fsync(whole.fileno())  # under its final name it is trusted forever
        got = hashlib.file_digest(whole, "sha256").hexdigest()
    if got != blob.name:
        incomplete.unlink()
        message = (
            f"the downloaded {file} is not the file that the hub names (SHA-256 {got[:12]}… "
            f"instead of {blob.name[:12]}…) and was deleted: start again; if it persists, check "
            f"what is between here and {_ENDPOINT}"
        )
        raise FetchError(message)
    incomplete.replace(blob)


def _fetch_bytes(
    file: HubFile, found: HfFileMetadata, incomplete: Path, progress: _Progress
) -> None:
    size = found.size or 0
    url = hf_hub_url(file.repository, file.path, revision=found.commit_hash)
    failures = 0
    while (have := incomplete.stat().st_size) != size:
        cause = "it ended early"
        try:
            _append(url, incomplete, size, progress)
        except httpx2.TransportError as error:
            cause = _one_line(error)
        brought = incomplete.stat().st_size
        if brought == size:
            return
        failures = 1 if brought > have else failures + 1
        if failures >= _ATTEMPTS:
            message = (
                f"the connection to {_ENDPOINT} broke at {brought} of {size} bytes of {file} and "
                f"does not come back ({cause}): restart to resume from there"
            )
            raise FetchError(message)
        _send(Noted(f"the connection broke at {brought} of {size} bytes ({cause}): retrying"))
        time.sleep(_PAUSE_SECONDS * 2 ** (failures - 1))


def _append(url: str, incomplete: Path, size: int, progress: _Progress) -> None:
    """Request the missing bytes and append them, until all are here or the stream ends."""
    have = incomplete.stat().st_size
    if have > size:  # cannot be the file's beginning
        have = 0
    headers = build_hf_headers() | {"Accept-Encoding": "identity", "Range": f"bytes={have}-"}
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
        hf_raise_for_status(response)
        if response.status_code != httpx2.codes.PARTIAL_CONTENT:  # a server without ranges
            have = 0
        with incomplete.open("r+b") as written:
            written.truncate(have)
            written.seek(have)
            progress.note(have)
            for chunk in response.iter_bytes(_CHUNK_BYTES):
                written.write(chunk[: size - have])
                have += len(chunk)
                progress.note(min(have, size))
                if have >= size:
                    return


def _keep_revision(reference: Path, commit: str) -> None:
    """Record the commit of a branch or tag, in the cache's layout."""
    reference.parent.mkdir(parents=True, exist_ok=True)
    written = reference.with_name(f"{reference.name}.{os.getpid()}")
    written.write_text(commit)
    written.replace(reference)


_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_CLOSED: Final = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR)
_Kind = type[Exception] | tuple[type[Exception], ...]
_CAUSES: Final[tuple[tuple[_Kind, str], ...]] = (
    (
        errors.GatedRepoError,
        "{place} is gated: accept its terms there and set HF_TOKEN",
    ),
    (
        errors.RepositoryNotFoundError,
        "there is no {place}, or it is private: check the name or set HF_TOKEN",
    ),
    (
        errors.RevisionNotFoundError,
        "{place} has no revision {file.revision!r}: omit it or name another",
    ),
    (
        errors.RemoteEntryNotFoundError,
        "{place} has no file {file.path!r} at {file.revision}: check the name",
    ),
    (
        errors.OfflineModeIsEnabled,
        "{file} is not in the cache and HF_HUB_OFFLINE forbids downloads: unset it",
    ),
    (
        (httpx2.TransportError, errors.LocalEntryNotFoundError),
        "{file} is not in the cache and {hub} cannot be reached: check the network ({cause})",
    ),
)
"""What an error of the hub's client means, and the remedy; the first match is used."""


def _explain(file: HubFile, error: Exception) -> str:
    place = f"{_ENDPOINT}/{file.repository}"
    for kind, text in _CAUSES:
        if isinstance(error, kind):
            return text.format(place=place, file=file, hub=_ENDPOINT, cause=_one_line(error))
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return f"{place} denies access ({status}): check HF_TOKEN and its permissions"
        return f"{_ENDPOINT} answered {status} for {file}: try again later"
    if isinstance(error, OSError) and error.errno in _FULL:
        return _no_room(None, 0)
    if isinstance(error, OSError) and error.errno in _CLOSED:
        cache = readable(constants.HF_HUB_CACHE)
        return f"the cache {cache} cannot be written: make it writable, or set HF_HOME"
    return f"{file} cannot be downloaded: {type(error).__name__}: {_one_line(error)}"


def _no_room(needed: int | None, free: int) -> str:
    amount = (
        "" if needed is None else f" ({needed / 1e9:.1f} GB more needed, {free / 1e9:.1f} free)"
    )
    cache = readable(constants.HF_HUB_CACHE)
    return f"no room in {cache}{amount}: free some space, or set HF_HOME to another disk"


def _one_line(error: Exception) -> str:
    text = str(error).encode(errors="backslashreplace").decode()  # it may contain a file name
    return " ".join(text.split()) or type(error).__name__


_results: Final = os.dup(1)


def _send(report: Report) -> None:
    os.write(_results, msgspec.json.encode(report) + b"\n")


def main() -> None:
    """Download the file that the argument names."""
    # The node decides when this process ends; a signal to the whole group is for the node.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.dup2(2, 1)  # libraries' output must not mix with reports
    logging.disable()  # the client's log lines contain URLs with signatures
    file = parse_source(sys.argv[1])
    if not isinstance(file, HubFile):
        raise SystemExit(f"{file} is not a hub file")
    try:
        _send(Fetched(os.fsencode(fetch(file))))
    except FetchError as error:
        _send(Failed(str(error)))
    except BrokenPipeError:
        pass


if __name__ == "__main__":
    main()
