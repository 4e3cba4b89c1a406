"""The story of each request, made of events: a line of the request log."""
