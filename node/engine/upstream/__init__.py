"""The engine that others run: any server with OpenAI's API, used over HTTP or HTTPS."""
