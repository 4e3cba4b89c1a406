"""The bearer tokens of a port, read from a file that may change."""

import logging
from pathlib import Path

from shared.runtime.follow import FollowedFiles
from shared.secret import TOKEN_FILE_BYTES, BearerTokens, parse_bearer_tokens

_log = logging.getLogger(__name__)


class TokenFileError(Exception):
    """The file cannot be read or has no usable token. The text is one line and names the flag."""


class TokenFile:
    """The tokens, kept up to date with their file.

    Args:
        flag: The setting that names the file, for messages.
        path: The file.

    Raises:
        TokenFileError: There is no usable token.
    """

    def __init__(self, flag: str, path: Path) -> None:
        self._flag = flag
        self._path = path
        self._files = FollowedFiles([path])
        self.tokens = BearerTokens(read_tokens(flag, path))

    async def follow(self) -> None:
        """Read the file again after each change. Runs until cancelled.

        If it has no usable token, the earlier tokens stay valid: open access would be worse.
        """
        await self._files.run(self._reload)

    def _reload(self) -> None:
        try:
            tokens = read_tokens(self._flag, self._path)
        except TokenFileError as error:
            _log.error("%s; the earlier tokens stay valid", error)
            return
        self.tokens.replace(tokens)
        _log.info("%s %s reloaded: %d tokens", self._flag, self._path, len(tokens))


def read_tokens(flag: str, path: Path) -> list[str]:
    """Read the tokens of a file, at least one.

    Raises:
        TokenFileError: There is no usable token.
    """
    try:
        with path.open("rb") as file:
            return parse_bearer_tokens(file.read(TOKEN_FILE_BYTES + 1))
    except OSError as error:
        raise TokenFileError(f"{flag} {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise TokenFileError(f"{flag} {path}: {error}") from error
