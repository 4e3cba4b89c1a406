"""The durable record: what was counted is on disk before it is visible, and is read at a start."""
