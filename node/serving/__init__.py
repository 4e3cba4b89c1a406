"""Serves requests: models, queues, lanes, admission and drain."""
