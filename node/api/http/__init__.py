"""The HTTP API: routes, bodies and streams in OpenAI's format."""
