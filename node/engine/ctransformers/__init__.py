"""The engine on ctransformers: its child process and what runs in it."""
