"""An answer's text read as its parts: words, thoughts, and calls of tools."""
