"""What can go wrong in an exporter."""


class ExporterError(Exception):
    """Base of everything that the exporter raises on purpose; one line for a person."""


class StartupError(ExporterError):
    """The exporter cannot start here: the cause and the remedy. Exit code 1."""
