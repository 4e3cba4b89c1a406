"""How events come in: the telemetry socket, its batches, and the feed of what was counted."""
