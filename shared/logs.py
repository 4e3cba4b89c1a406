"""The form of a log line, the same in every process."""

import json
import logging
from typing import Any


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configuration(level: str, form: str) -> dict[str, Any]:
    """Describe the logging of a process for `logging.config.dictConfig`: lines on stderr.

    Args:
        level: The least severe level that is written, one of Python's names in lower case.
        form: `text` or `json`.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "text": {"format": "%(asctime)s %(levelname)-7s %(name)s: %(message)s"},
            "json": {"()": _Json},
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": form}},
        "root": {"level": level.upper(), "handlers": ["stderr"]},
        # hypercorn says at info what the composition root says itself.
        "loggers": {"hypercorn.error": {"level": "WARNING", "propagate": True}},
    }
