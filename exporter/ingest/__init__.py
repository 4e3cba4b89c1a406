"""Receives events: the telemetry socket, its batches, and the feed of counted batches."""
