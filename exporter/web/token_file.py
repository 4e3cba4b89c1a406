"""The tokens that `/metrics` asks for, read from a file that may change."""

import logging
from pathlib import Path

from exporter.errors import StartupError
from shared.runtime.follow import FollowedFiles
from shared.secret import TOKEN_FILE_BYTES, BearerTokens, parse_bearer_tokens

_log = logging.getLogger(__name__)


class TokenFile:
    """The tokens as their file has them.

    Raises:
        StartupError: There is no token to be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = FollowedFiles([path])
        self.tokens = BearerTokens(read_tokens(path))

    async def watch(self) -> None:
        """Follow the file. Runs until cancelled."""
        await self._files.run(self._reload)

    def _reload(self) -> None:
        try:
            tokens = read_tokens(self._path)
        except StartupError as error:
            _log.error("%s; the tokens read before still count", error)
            return
        self.tokens.replace(tokens)
        _log.info("%d tokens were read again from %s", len(tokens), self._path)


def read_tokens(path: Path) -> list[str]:
    """Read the tokens of a file, at least one.

    Raises:
        StartupError: There is no token to be read.
    """
    try:
        with path.open("rb") as file:
            return parse_bearer_tokens(file.read(TOKEN_FILE_BYTES + 1))
    except OSError as error:
        message = f"--metrics-token-file {path} cannot be read: {error.strerror}"
        raise StartupError(message) from error
    except ValueError as error:
        raise StartupError(f"--metrics-token-file {path}: {error}") from error
