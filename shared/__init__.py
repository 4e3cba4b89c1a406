"""What node and exporter agree on: events, the wire between them, and how settings are read."""
