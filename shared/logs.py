"""The log line format, the same in every process."""

import json
import logging
import os
import re
from datetime import UTC, datetime
from typing import Any, Final

ERROR_PREFIX: Final = "<3>"
_PRIORITIES: Final = (
    (logging.CRITICAL, "<2>"),
    (logging.ERROR, ERROR_PREFIX),
    (logging.WARNING, "<4>"),
    (logging.INFO, "<6>"),
)
"""The prefix from which journald reads a line's priority (sd-daemon(3))."""

_CONTROL: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
"""Characters that break a line or control a terminal."""


class _Text(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return encodable(super().formatException(ei))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": encodable(record.getMessage()),
        }
        if record.exc_info:
            line["exception"] = encodable(self.formatException(record.exc_info))
        return json.dumps(line)


class _JournalHandler(logging.StreamHandler[Any]):
    """Prefixes each line with its priority, traceback lines included."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = next((text for level, text in _PRIORITIES if record.levelno >= level), "<7>")
        return "\n".join(prefix + line for line in super().format(record).splitlines())


def rfc3339(seconds: float) -> str:
    """Format a Unix time as UTC with milliseconds and offset."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def encodable(text: str) -> str:
    """Escape what is not valid Unicode, such as undecodable bytes of a file name."""
    return text.encode(errors="backslashreplace").decode()


def one_line(text: str) -> str:
    """Escape line breaks, other control characters and what cannot be encoded.

    Names come from files, peers and clients. Without the escapes they could forge log lines.
    """
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], encodable(text))


def stderr_is_journal() -> bool:
    """Return whether `JOURNAL_STREAM` names this process's standard error (systemd.exec(5))."""
    try:
        status = os.fstat(2)
    except OSError:  # stderr is closed
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def configuration(level: str, form: str, *, journal: bool = False) -> dict[str, Any]:
    """Return a `logging.config.dictConfig` configuration that logs to stderr.

    Args:
        level: The least severe level to write, one of Python's names in lower case.
        form: `text` or `json`.
        journal: Whether journald reads the lines. It records time and priority itself.
    """
    handler = _JournalHandler if journal else logging.StreamHandler
    time = "" if journal else "%(asctime)s "
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "text": {"()": _Text, "fmt": time + "%(levelname)-7s %(name)s: %(message)s"},
            "json": {"()": _Json},
        },
        "handlers": {"stderr": {"()": handler, "formatter": form}},
        "root": {"level": level.upper(), "handlers": ["stderr"]},
        # hypercorn logs at info what the composition root already logs.
        "loggers": {"hypercorn.error": {"level": "WARNING", "propagate": True}},
    }
