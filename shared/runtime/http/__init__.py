"""The HTTP server of both processes, on hypercorn's protocols."""
