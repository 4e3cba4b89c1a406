"""The way of a request: admission, queue, engine, stream of text, end."""
