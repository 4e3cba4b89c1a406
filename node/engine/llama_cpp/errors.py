"""What can go wrong between the node and a llama-server."""


class EngineLostError(Exception):
    """The server is gone, broke off, failed by its own fault, or does not speak its protocol."""


class RefusedError(Exception):
    """The server does not accept a prompt; the text is one line that says why."""
