"""The log that records go into now, and those before it that are not closed yet."""

from exporter.journal.log_writer import LogWriter, start_log
from exporter.journal.records import LOG_HEADER, log_path
from exporter.journal.state_directory import StateDirectory


class CurrentLog:
    """Holds the open log of a state directory.

    Args:
        directory: Where the logs are.
        logs_bytes: Limit of all logs together.
        failure: Why there is no log yet.
    """

    def __init__(self, directory: StateDirectory, logs_bytes: int, failure: str) -> None:
        self.writer: LogWriter | None = None
        """None after a failure, until a log is started."""
        self.failure = failure
        """Why there is no writer."""
        self.generation = 0
        """Of the newest log."""
        self._directory = directory
        self.limit_bytes = logs_bytes
        """Limit of all logs together."""
        self._retired: list[LogWriter] = []
        """Closed later, because another thread may be syncing it."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the log, 0 if there is none."""
        return self.writer.size_bytes if self.writer else 0

    @property
    def is_empty(self) -> bool:
        """Whether there is a log, and no record in it."""
        return self.size_bytes == LOG_HEADER.size

    def start(self, generation: int) -> None:
        """Create a log; the one before it is retired.

        Raises:
            OSError: It cannot be created; nothing has changed.
        """
        log = start_log(log_path(self._directory.path, generation))
        self.retire("")
        self.generation = generation
        self._use(log)

    def resume(self, generation: int) -> None:
        """Append to a log that was read to its end.

        Raises:
            OSError: It cannot be opened.
        """
        self.generation = generation
        self._use(LogWriter(log_path(self._directory.path, generation)))

    def retire(self, failure: str) -> None:
        """Take no record until a log is started."""
        self.failure = failure
        if self.writer:
            self._retired.append(self.writer)
        self.writer = None

    def close_retired(self) -> None:
        """Close the logs that nobody syncs any more."""
        while self._retired:
            self._retired.pop().close()

    def set_limit(self) -> None:
        """Limit the log to what the older ones leave."""
        if self.writer:
            older_bytes = self._directory.logs_bytes(self.generation)
            self.writer.limit_bytes = self.limit_bytes - older_bytes

    def _use(self, log: LogWriter) -> None:
        self.writer = log
        self.set_limit()
