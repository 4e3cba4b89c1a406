"""Where models come from: files here, or files on a hub that are fetched once."""
