"""The errors of an exporter."""


class ExporterError(Exception):
    """Base of all errors that the exporter raises on purpose; the text is one line for a person."""


class StartupError(ExporterError):
    """The exporter cannot start here: the text names the cause and the remedy. Exit code 1."""
