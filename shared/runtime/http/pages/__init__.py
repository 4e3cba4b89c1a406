"""The parts that every page has: look, icon, and the reader of server-sent events."""
