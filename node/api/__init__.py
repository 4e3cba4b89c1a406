"""The node's API: OpenAI-compatible HTTP on hypercorn."""
