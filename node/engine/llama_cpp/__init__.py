"""The engine on llama.cpp: a llama-server process on a Unix socket, used over HTTP."""
