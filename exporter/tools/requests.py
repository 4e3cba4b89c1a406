"""The subcommand `requests`: show the request log, filtered, and follow it."""

import dataclasses
import re
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Final, get_args

import click
import trio

from exporter.errors import StartupError
from exporter.metrics.labels import clean_label
from exporter.requests.files import STDOUT
from exporter.requests.line import Line, write_line
from exporter.requests.reading import LogReader
from exporter.settings import ExporterSettings
from shared import streams
from shared.events.requests import RequestStatus
from shared.runtime.signals import stop_signals
from shared.settings.declaration import Topic, UsageError, declarations, setting
from shared.settings.kinds import NOT_NEGATIVE

ABOUT: Final = """Show the requests of a request log, the newest last.

Reads the file that --request-log names, with its older files. With --follow, the requests that end
from now on follow."""
_LOOK_SECONDS: Final = 0.2
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Ago(click.ParamType[float]):
    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        if (found := re.fullmatch(r"(\d{1,9})([smhd])", value)) is None:
            self.fail(f"{value!r} is not a duration such as 90s, 10m, 2h or 7d.", param, ctx)
        return float(int(found[1]) * _UNITS[found[2]])


@dataclasses.dataclass(frozen=True, kw_only=True)
class RequestsSettings(ExporterSettings):
    """The settings of `requests`."""

    unused = frozenset(declarations(ExporterSettings)) - {"config", "request_log"}

    model: str = setting(Topic.OPTIONS, "", click.STRING, "Model to show.", shown="all")
    status: str = setting(
        Topic.OPTIONS,
        "",
        click.Choice(["", *get_args(RequestStatus)]),
        "Status to show.",
        shown="all",
    )
    route: str = setting(
        Topic.OPTIONS, "", click.STRING, "Route or gRPC method to show.", shown="all"
    )
    request: str = setting(
        Topic.OPTIONS, "", click.STRING, "Id of a request or a trace to show.", shown="all"
    )
    slow: float = setting(
        Topic.OPTIONS, 0.0, NOT_NEGATIVE, "Least duration to show, in seconds.", shown="all"
    )
    since: float = setting(
        Topic.OPTIONS, 0.0, _Ago(), "Age of the oldest request to show.", shown="all"
    )
    follow: bool = setting(Topic.OPTIONS, False, bool, "Wait for further requests and show them.")
    json: bool = setting(Topic.OPTIONS, False, bool, "Write the lines as they are in the log.")

    def check(self) -> None:
        """Check also that there is a file to read.

        Raises:
            UsageError: None was named.
        """
        super().check()
        if self.request_log in (None, STDOUT):
            raise UsageError("no request log to read: name the exporter's with --request-log FILE")

    def wants(self, line: Line, since: str) -> bool:
        """Return whether a request passes the filters.

        Args:
            line: The request.
            since: When the oldest wanted one ended, as in a line; empty for any time.
        """
        return (
            self.model in ("", line.model_id)
            and self.status in ("", line.status)
            and self.route in ("", line.route)
            and self.request in ("", line.request_id, line.trace_id)
            and line.seconds >= self.slow
            and line.time >= since
        )


def requests(settings: RequestsSettings) -> None:
    """Show the requests; with `follow` until SIGTERM, SIGINT, SIGHUP or the end of the output.

    Raises:
        StartupError: The log cannot be read (perhaps in a group).
    """
    assert settings.request_log is not None  # noqa: S101 - `check` saw to it
    began = datetime.fromtimestamp(time.time() - settings.since, UTC)
    since = began.isoformat(timespec="milliseconds") if settings.since else ""
    with closing(LogReader(settings.request_log)) as reader:
        try:
            for line in _all(reader):
                _show(line, settings, since)
            if settings.follow:
                trio.run(_follow, reader, settings, since)
        except OSError as error:
            reason = f"{error.filename or settings.request_log} cannot be read: {error.strerror}"
            raise StartupError(reason) from error


def _all(reader: LogReader) -> Iterator[Line]:
    yield from reader.read_older()
    yield from reader.read_new()


async def _follow(reader: LogReader, settings: RequestsSettings, since: str) -> None:
    with trio.open_signal_receiver(*stop_signals()) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_show_new, reader, settings, since, name="request log")
            await anext(signals)
            nursery.cancel_scope.cancel()


async def _show_new(reader: LogReader, settings: RequestsSettings, since: str) -> None:
    sys.stderr.write(f"following {settings.request_log}\n")
    while True:
        for line in reader.read_new():
            _show(line, settings, since)
        await trio.sleep(_LOOK_SECONDS)


def _show(line: Line, settings: RequestsSettings, since: str) -> None:
    if settings.wants(line, since):
        streams.write(write_line(line).decode() if settings.json else as_text(line) + "\n")


def as_text(line: Line) -> str:
    """Format a request for people: when, how, how long, and its phases."""
    parts: list[str] = [
        f"{line.time[11:23]} {line.status:9} {line.seconds:8.3f}s",
        line.node_id,
        line.model_id,
        line.route or "-",
        f"tokens={line.prompt_tokens}+{line.generated_tokens}",
        f"queue={line.queue_seconds:.3f}",
    ]
    optional = {
        "prefill": line.prefill_seconds,
        "decode": line.decode_seconds,
        "reason": line.reason,
        "code": line.code,
        "finish": line.finish_reason,
        "resumed": line.resumed or None,
        "forwarded_to": line.forwarded_to,
        "client": line.client,
        "request": line.request_id or None,
    }
    parts += [f"{name}={_word(value)}" for name, value in optional.items() if value is not None]
    return " ".join(map(clean_label, parts))


def _word(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
