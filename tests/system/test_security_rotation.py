"""Keys and tokens change without a restart, and a mistake never opens the door."""

import functools
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.processes import Pair, Running, wait_for


class Secret:
    """A file as Kubernetes mounts a Secret: a link to a link, which is swapped."""

    def __init__(self, directory: Path, *tokens: str) -> None:
        self.path = directory / "tokens"
        self._directory = directory
        self._version = 0
        directory.mkdir()
        self.swap("\n".join(tokens))
        self.path.symlink_to(directory / "..data" / "tokens")

    def swap(self, text: str) -> None:
        """Replace the content atomically."""
        self._version += 1
        version = self._directory / f"..{self._version}"
        version.mkdir()
        (version / "tokens").write_text(text)
        (self._directory / "..new").symlink_to(version)
        (self._directory / "..new").rename(self._directory / "..data")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    """A file with one token."""
    return Secret(tmp_path / "secret", "first-token")


def tells(running: Running, line: str, times: int) -> bool:
    return running.log.read_text().count(line) == times


def follow(running: Running, url: str, secret: Secret, still: str) -> None:
    """Rotate the tokens of a process."""

    def answers(token: str, status: int) -> Callable[[], bool]:
        return lambda: httpx.get(url, headers=bearer(token)).status_code == status

    assert answers("first-token", 200)()
    assert answers("second-token", 401)()
    secret.swap("first-token\nsecond-token")
    wait_for(answers("second-token", 200))
    assert answers("first-token", 200)()
    secret.swap("second-token")
    wait_for(answers("first-token", 401))

    for broken in ("", "# all gone\n"):
        lines = running.log.read_text().count(still)
        secret.swap(broken)
        wait_for(functools.partial(tells, running, still, lines + 1))
        assert answers("second-token", 200)()
        assert httpx.get(url).status_code == 401
    away = secret.path.with_suffix(".away")
    secret.path.rename(away)
    wait_for(lambda: "No such file" in running.log.read_text())
    assert answers("second-token", 200)()
    assert httpx.get(url).status_code == 401
    away.rename(secret.path)
    secret.swap("third-token")
    wait_for(answers("third-token", 200))
    assert answers("second-token", 401)()
    told = running.log.read_text()
    assert "Traceback" not in told
    assert not any(token in told for token in ("first-token", "second-token", "third-token"))


@pytest.mark.slow
def test_keys_are_followed(pair: Pair, secret: Secret) -> None:
    """A new key is valid within about a second; a file without a key changes nothing."""
    with pair.node(f"--api-key-file={secret.path}") as node:
        follow(node, f"{node.url}/v1/models", secret, "the earlier tokens stay valid")


@pytest.mark.slow
def test_tokens_are_followed(pair: Pair, secret: Secret) -> None:
    """The exporter follows its tokens in the same way."""
    with pair.exporter(f"--metrics-token-file={secret.path}") as exporter:
        url = f"{exporter.url}/metrics"
        follow(exporter, url, secret, "the earlier tokens stay valid")
