"""The engine on ctransformers: its child process and the code in it."""
