"""The status page at `/`."""
