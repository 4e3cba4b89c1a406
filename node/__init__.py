"""The node: serves inference and emits events."""
